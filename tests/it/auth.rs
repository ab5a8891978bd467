//! How connections are let in: refresh tokens that change at each use, keys that are published and rotated, TLS on
//! both sides, proxies, and where tokens never go.

mod key_set;
mod refresh;
mod refresh_files;
mod scene;
