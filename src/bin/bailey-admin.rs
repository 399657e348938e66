//! The administrator's commands.

fn main() {}
