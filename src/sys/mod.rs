//! The only unsafe code: what neither the standard library nor nix offers, behind safe functions.

#![allow(unsafe_code)]

pub mod fd;
pub mod socket;
pub mod tty;
