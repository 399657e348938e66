//! The launcher.
#![no_main]

bailey::entry_point!(bailey::app::main);
