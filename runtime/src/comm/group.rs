//! Groups of ranks.

use std::any::Any;
use std::sync::Arc;

use super::CommError;

/// A set of ranks that do collectives together, as one of its members holds it.
#[derive(Clone)]
pub struct Group {
    ranks: Arc<[usize]>,
    position: usize,
    /// What the communicator that made the group keeps with it.
    handle: Arc<dyn Any + Send + Sync>,
}

impl Group {
    /// The group of `ranks` as `rank` of a world of `size` sees it. For implementations of communicators, which keep
    /// their own state in `handle`.
    pub fn new(ranks: &[usize], rank: usize, size: usize, handle: Arc<dyn Any + Send + Sync>) -> Result<Group, CommError> {
        let position = Self::position_of(ranks, rank, size)?;
        Ok(Group { ranks: ranks.into(), position, handle })
    }

    /// Where `rank` stands in the list, if the list is a group of the world.
    pub(super) fn position_of(ranks: &[usize], rank: usize, size: usize) -> Result<usize, CommError> {
        let bad = |why| CommError::BadGroup { ranks: ranks.to_vec(), rank, size, why };
        if !ranks.is_sorted_by(|a, b| a < b) {
            return Err(bad("ranks must ascend"));
        }
        if ranks.last().is_some_and(|last| *last >= size) {
            return Err(bad("a rank is outside the world"));
        }
        ranks.binary_search(&rank).map_err(|_| bad("the caller is not in it"))
    }

    /// The members' global ranks, ascending.
    pub fn ranks(&self) -> &[usize] {
        &self.ranks
    }

    /// How many they are.
    pub fn size(&self) -> usize {
        self.ranks.len()
    }

    /// Where this rank stands among them.
    pub fn position(&self) -> usize {
        self.position
    }

    /// What the communicator keeps with the group.
    pub fn handle(&self) -> &(dyn Any + Send + Sync) {
        &*self.handle
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("ranks", &self.ranks).field("position", &self.position).finish_non_exhaustive()
    }
}
