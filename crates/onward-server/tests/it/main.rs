//! The HTTP surface: the real router in process, and the real listener over TCP.

mod abuse;
mod access;
mod cache;
mod chains;
mod commit;
mod dev;
mod drain;
mod locks;
mod objects;
mod races;
mod support;
mod surface;
mod watch;
