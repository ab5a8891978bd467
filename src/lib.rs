//! EHR Courier: polls health record systems that cannot push, and pushes one signed notification per
//! changed record version.

pub mod config;
