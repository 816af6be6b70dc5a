//! Which keys of a bucket there are, as one home knows it.
//!
//! What a home lists is only what it has heard of. Whoever wants all keys that a majority of the homes holds asks a
//! majority of them, of the set in charge and of the next one, all in one epoch of the arc: then whoever has made a
//! later change of the arc's homes has asked one of them before. Of those in charge a majority has to count
//! ([`ListingPage::counts`]); a newcomer that has not copied its arc yet only shows that the epoch is not over.

use bytes::Bytes;
use membership::{BucketId, Epoch, Position};
use replication::RegisterKey;

use crate::reconcile::Range;
use crate::replica::Replica;

/// Keys of one page at most.
pub const LISTED_MAX: usize = 1_024;
/// Keys of one page at most, in bytes.
const LISTED_BYTES_MAX: usize = 512 << 10;

/// A question: which keys of a bucket lie on a stretch of one arc?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The bucket.
    pub bucket: BucketId,
    /// Only keys that begin with this.
    pub prefix: Bytes,
    /// The first position that is wanted.
    pub from: Position,
    /// The last one. Not before the first: a stretch that reaches over the end of the numbers is two.
    pub to: Position,
    /// Go on after this key.
    pub after: Option<RegisterKey>,
    /// The epoch of the arc that the stretch lies in.
    pub epoch: Epoch,
}

/// One page of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListingPage {
    /// The keys, in ring order. Of what was deleted a home may still list some.
    pub keys: Vec<RegisterKey>,
    /// Whether more follow.
    pub more: bool,
    /// Whether this home counts: whether it has all that it ever said that it has, or all that a majority had.
    pub counts: bool,
}

impl Replica {
    /// Answers from what is held here.
    ///
    /// # Errors
    /// The epoch of the view here, if this node is no home of the arc in the epoch that was named.
    pub fn list(&self, listing: &Listing) -> Result<ListingPage, Epoch> {
        let not_ours = self.view.epoch;
        let arc = self.ring.arc_of(listing.from).ok_or(not_ours)?;
        if arc.epoch != listing.epoch || !arc.is_held_by(self.me) || !arc.contains(listing.to) {
            return Err(not_ours);
        }
        let first = listing.after.as_ref().map_or(listing.from, |after| after.position).0.max(listing.from.0);
        let mut page = ListingPage { counts: self.counts_at(listing.from), ..ListingPage::default() };
        if first > listing.to.0 {
            return Ok(page);
        }
        let mut bytes = 0;
        for (key, held) in self.table.range(Range { first, last: listing.to.0 }) {
            let wanted = key.bucket == listing.bucket && key.key.starts_with(&listing.prefix);
            let told = listing.after.as_ref().is_some_and(|after| key <= after);
            if !wanted || told || held.state.is_tombstone() {
                continue;
            }
            bytes += key.key.len();
            if page.keys.len() == LISTED_MAX || (bytes > LISTED_BYTES_MAX && !page.keys.is_empty()) {
                page.more = true;
                break;
            }
            page.keys.push(key.clone());
        }
        Ok(page)
    }
}
