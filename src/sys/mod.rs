//! The only unsafe code: what neither the standard library nor nix offers, behind safe functions.

#![allow(unsafe_code)]

mod arena;
pub mod bytes;
pub mod datagram;
pub mod fd;
pub mod heap;
pub mod mem;
pub mod process;
mod scratch;
pub mod securebits;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod tty;
