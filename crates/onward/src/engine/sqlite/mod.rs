//! SQLite: the embedded default; several processes on one machine may share a file.

mod connection;
mod error;
