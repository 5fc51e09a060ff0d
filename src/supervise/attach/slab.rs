//! Clients by mio token: a slot's number in the low bits, the number of the client above.
//!
//! A token is never given to two clients, so an event that was fetched before its client left finds nobody.

use mio::Token;

/// Bits for the slot's number.
const SLOT_BITS: u32 = 12;

#[derive(Debug)]
pub(super) struct Slab<T> {
    first: Token,
    max: usize,
    /// `None`: free. The last one is never free.
    slots: Vec<Option<Numbered<T>>>,
    /// How many values there have been.
    count: usize,
    occupied: usize,
}

#[derive(Debug)]
struct Numbered<T> {
    number: usize,
    value: T,
}

impl<T> Slab<T> {
    /// At most `max` values at once, fewer than 4096, under the tokens from `first` on.
    pub(super) fn new(first: Token, max: usize) -> Self {
        Self { first, max: max.min(1 << SLOT_BITS), slots: Vec::new(), count: 0, occupied: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// The token of the next value; `None` while there are as many as there may be.
    pub(super) fn vacant(&self) -> Option<Token> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        (free < self.max).then(|| self.token(free, self.count))
    }

    /// Puts `value` where `token`, which [`Self::vacant`] has just given, says.
    pub(super) fn insert(&mut self, token: Token, value: T) {
        let Some((number, index)) = self.parts(token).filter(|(_, index)| *index < self.max) else { return };
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            self.occupied += usize::from(slot.replace(Numbered { number, value }).is_none());
        }
        self.count = number + 1;
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let (number, index) = self.parts(token)?;
        let slot = self.slots.get_mut(index)?.as_mut()?;
        (slot.number == number).then_some(&mut slot.value)
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<T> {
        let (number, index) = self.parts(token)?;
        let removed = self.slots.get_mut(index)?.take_if(|slot| slot.number == number)?;
        self.occupied -= 1;
        while matches!(self.slots.last(), Some(None)) {
            self.slots.pop();
        }
        if self.slots.is_empty() {
            // There may have been a crowd.
            self.slots = Vec::new();
        }
        Some(removed.value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten().map(|slot| &slot.value)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten().map(|slot| &mut slot.value)
    }

    /// The tokens of all values, to work on each with the slab at hand.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let occupied =
            self.slots.iter().enumerate().filter_map(|(index, slot)| Some((index, slot.as_ref()?)));
        occupied.map(|(index, slot)| self.token(index, slot.number)).collect()
    }

    fn token(&self, index: usize, number: usize) -> Token {
        Token(self.first.0 + (number << SLOT_BITS) + index)
    }

    /// Number and slot.
    fn parts(&self, token: Token) -> Option<(usize, usize)> {
        let bits = token.0.checked_sub(self.first.0)?;
        Some((bits >> SLOT_BITS, bits & ((1 << SLOT_BITS) - 1)))
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
    fn tokens_never_come_again() {
        let mut slab = Slab::new(Token(7), 2);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..100_000 {
            let token = slab.vacant().unwrap();
            slab.insert(token, ());
            slab.remove(token);
            assert!(seen.insert(token));
        }
        assert!(slab.is_empty());
    }

    #[test]
    fn a_crowd_leaves_no_memory_behind() {
        let mut slab = Slab::new(Token(7), 1000);
        let tokens: Vec<Token> = (0..1000)
            .map(|number| {
                let token = slab.vacant().unwrap();
                slab.insert(token, number);
                token
            })
            .collect();
        assert_eq!(slab.vacant(), None);
        for token in &tokens[1..] {
            slab.remove(*token);
        }
        assert_eq!((slab.slots.len(), slab.tokens()), (1, vec![tokens[0]]));
        slab.remove(tokens[0]);
        assert_eq!(slab.slots.capacity(), 0);
    }
}
