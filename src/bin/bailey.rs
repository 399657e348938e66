//! The launcher.
#![no_main]

#[global_allocator]
static MEMORY: bailey::sys::alloc::Keeping = bailey::sys::alloc::Keeping;

bailey::entry_point!(bailey::app::main);
