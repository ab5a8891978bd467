//! How connections are let in: refresh tokens that change at each use, keys that are published and rotated, TLS on
//! both sides, proxies, and where tokens never go.

mod authority;
mod key_set;
mod origins;
mod proxy;
mod refresh;
mod refresh_files;
mod scene;
mod tls;
