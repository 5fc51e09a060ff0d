//! Finished records in one contiguous piece of memory, so that many reach the file in one write.

use std::io;

use super::stamp::PREFIX_LEN;
use crate::sys::mem::Mapping;

/// What one write takes at most. Larger ones gain nothing and leave the processor's cache.
pub const BATCH_LEN: usize = 128 * 1024;

/// Short payloads are copied by a fixed size, which needs no call; what is too much is overwritten by the next record.
const SHORT: usize = 64;

#[derive(Debug)]
pub struct Batch {
    memory: Mapping,
    /// End of the records.
    len: usize,
    /// Bytes of them that are written; not 0 only after a target that was full for the moment.
    sent: usize,
}

impl Batch {
    /// # Errors
    /// As mmap(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self { memory: Mapping::new(BATCH_LEN + SHORT)?, len: 0, sent: 0 })
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn room(&self) -> usize {
        BATCH_LEN.saturating_sub(self.len)
    }

    pub fn sent(&self) -> usize {
        self.sent
    }

    pub fn records(&self) -> &[u8] {
        self.memory.get(..self.len).unwrap_or_default()
    }

    pub fn unsent(&self) -> &[u8] {
        self.memory.get(self.sent..self.len).unwrap_or_default()
    }

    pub fn advance(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.len);
    }

    pub fn clear(&mut self) {
        (self.len, self.sent) = (0, 0);
    }

    /// Gives the memory's pages back; the batch must be empty, or its records are gone.
    pub fn shed(&mut self) {
        self.clear();
        self.memory.discard();
    }

    /// Where [`Writer`] puts records.
    #[inline]
    pub fn writer(&mut self) -> Writer<'_> {
        let memory = self.memory.get_mut(self.len..).unwrap_or_default();
        Writer { start: memory.len(), len: &mut self.len, memory }
    }
}

/// Appends records; the batch knows of them when the writer is dropped.
#[derive(Debug)]
pub struct Writer<'a> {
    len: &'a mut usize,
    memory: &'a mut [u8],
    start: usize,
}

impl Writer<'_> {
    /// Adds one record. The caller has seen to it that [`Batch::room`] is enough.
    #[inline]
    pub fn put(&mut self, prefix: &[u8; PREFIX_LEN], payload: &[u8]) {
        let memory = std::mem::take(&mut self.memory);
        let Some((head, tail)) = memory.split_first_chunk_mut::<PREFIX_LEN>() else { return };
        *head = *prefix;
        self.memory = tail;
        self.put_bytes(payload);
    }

    #[inline]
    pub fn put_bytes(&mut self, bytes: &[u8]) {
        let memory = std::mem::take(&mut self.memory);
        let Some((to, rest)) = memory.split_at_mut_checked(bytes.len()) else { return };
        to.copy_from_slice(bytes);
        self.memory = rest;
    }

    /// As [`Self::put`], for a payload that `source` begins with; the bytes behind it in `source` make short copies cheap.
    #[inline]
    pub fn put_from(&mut self, prefix: &[u8; PREFIX_LEN], source: &[u8], len: usize) {
        let memory = std::mem::take(&mut self.memory);
        let Some((head, tail)) = memory.split_first_chunk_mut::<PREFIX_LEN>() else { return };
        *head = *prefix;
        self.memory = tail;
        if len <= SHORT
            && let (Some(from), Some(to)) =
                (source.first_chunk::<SHORT>(), self.memory.first_chunk_mut::<SHORT>())
        {
            *to = *from;
            self.memory = std::mem::take(&mut self.memory).get_mut(len..).unwrap_or_default();
        } else {
            self.put_bytes(source.get(..len).unwrap_or_default());
        }
    }
}

impl Drop for Writer<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.len += self.start - self.memory.len();
    }
}
