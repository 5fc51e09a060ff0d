//! Clients by mio token: a slot's number in the low bits, how often the slot was used above.
//!
//! A token is never given to two clients, so an event that was fetched before its client left finds nobody.

use mio::Token;

/// Bits for the slot's number.
const SLOT_BITS: u32 = 12;

/// How often a slot is used before its tokens come again; no batch of events spans that.
const USES: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct Slab<T> {
    first: Token,
    max: usize,
    slots: Vec<Slot<T>>,
    occupied: usize,
}

#[derive(Debug)]
struct Slot<T> {
    uses: usize,
    /// `None`: free.
    value: Option<T>,
}

impl<T> Slab<T> {
    /// At most `max` values at once, fewer than 4096, under the tokens from `first` on.
    pub(super) fn new(first: Token, max: usize) -> Self {
        Self { first, max: max.min(1 << SLOT_BITS), slots: Vec::new(), occupied: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// The token of the next value; `None` while there are as many as there may be.
    pub(super) fn vacant(&mut self) -> Option<Token> {
        let free = self.slots.iter().position(|slot| slot.value.is_none());
        let index = match free {
            Some(index) => index,
            None if self.slots.len() < self.max => {
                self.slots.push(Slot { uses: 0, value: None });
                self.slots.len() - 1
            }
            None => return None,
        };
        let slot = self.slots.get(index)?;
        Some(self.token(index, slot.uses))
    }

    /// Puts `value` where `token`, which [`Self::vacant`] gave, says.
    pub(super) fn insert(&mut self, token: Token, value: T) {
        if let Some(slot) = self.slot_mut(token) {
            self.occupied += usize::from(slot.value.replace(value).is_none());
        }
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        self.slot_mut(token)?.value.as_mut()
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<T> {
        let slot = self.slot_mut(token)?;
        let value = slot.value.take()?;
        slot.uses = (slot.uses + 1) % USES;
        self.occupied -= 1;
        // The longest tail of free slots could go, but their use counts are what keeps tokens apart.
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }

    /// The tokens of all values, to work on each with the slab at hand.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let occupied = self.slots.iter().enumerate().filter(|(_, slot)| slot.value.is_some());
        occupied.map(|(index, slot)| self.token(index, slot.uses)).collect()
    }

    fn token(&self, index: usize, uses: usize) -> Token {
        Token(self.first.0 + (uses << SLOT_BITS) + index)
    }

    fn slot_mut(&mut self, token: Token) -> Option<&mut Slot<T>> {
        let number = token.0.checked_sub(self.first.0)?;
        let (uses, index) = (number >> SLOT_BITS, number & ((1 << SLOT_BITS) - 1));
        self.slots.get_mut(index).filter(|slot| slot.uses == uses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_the_dead_finds_nobody() {
        let mut slab = Slab::new(Token(100), 2);
        let first = slab.vacant().unwrap();
        slab.insert(first, 'a');
        let second = slab.vacant().unwrap();
        slab.insert(second, 'b');
        assert_eq!(slab.vacant(), None);
        assert_eq!(slab.remove(first), Some('a'));
        let third = slab.vacant().unwrap();
        slab.insert(third, 'c');
        assert_ne!(first, third);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(third), Some(&mut 'c'));
        assert_eq!(slab.tokens(), [third, second]);
        assert!(!slab.is_empty());
    }

    #[test]
    fn tokens_come_again_only_after_very_many() {
        let mut slab = Slab::new(Token(7), 1);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            let token = slab.vacant().unwrap();
            slab.insert(token, ());
            slab.remove(token);
            assert!(seen.insert(token));
        }
        assert!(slab.is_empty());
    }
}
