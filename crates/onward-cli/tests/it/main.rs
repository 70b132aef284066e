//! The real binary, against a real `onward dev` and against engine files: output, exit codes, signals.

mod cache_and_audit;
mod dev;
mod lock_run;
mod objects;
mod streams;
mod support;
