//! Who: what the pilot declares about the payload's user. Declared is not verified, and the record says so.
#![forbid(unsafe_code)]
