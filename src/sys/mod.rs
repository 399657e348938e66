//! The only unsafe code: one wrapper per system call that no crate offers.
