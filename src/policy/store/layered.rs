//! The tables of a configuration that cannot be read any more, with the lists as they are now over them.
//!
//! 1. Of what is below only bans and groups of files are left out, which the newer lists have in full. Persons, rules and what
//!    mapfiles say stay as they were.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::super::index::{Item, Member, Memory, Of, Source};
use crate::failure::Failure;

/// See above.
pub(super) struct Layered {
    pub below: Arc<dyn Source + Send + Sync>,
    pub newer: Memory,
}

/// Whether that comes from a list that was read anew.
const fn is_listed(item: &Item) -> bool {
    matches!(item, Item::Ban(..) | Item::Member(Member { of: Of::Group(_), .. }))
}

impl Source for Layered {
    fn at(&self, key: &str) -> Result<Vec<Arc<Item>>, Failure> {
        let mut found = self.below.at(key)?;
        found.retain(|item| !is_listed(item));
        found.extend(self.newer.at(key)?);
        Ok(found)
    }

    fn has_piece(&self, piece: &[u8]) -> bool {
        self.below.has_piece(piece) || self.newer.has_piece(piece)
    }

    fn has_pieces(&self) -> bool {
        self.below.has_pieces() || self.newer.has_pieces()
    }

    fn has_trusts(&self) -> bool {
        self.below.has_trusts()
    }
}
