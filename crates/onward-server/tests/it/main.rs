//! The surface, asked over a socket.
