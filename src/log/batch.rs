//! Finished records in one contiguous piece of memory, so that many reach the file in one write.

use std::io;

use super::stamp::PREFIX_LEN;
use crate::sys::mem::Mapping;

/// What one write takes at most. Larger ones gain nothing and leave the processor's cache.
pub const BATCH_LEN: usize = 128 * 1024;

/// Payloads of up to two blocks of this size are copied in whole blocks, which needs no call of memcpy(3); what is too
/// much is overwritten by the next record.
const BLOCK: usize = 128;
const TWO_BLOCKS: usize = 2 * BLOCK;

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
        Ok(Self { memory: Mapping::new(BATCH_LEN + TWO_BLOCKS)?, len: 0, sent: 0 })
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
        let copied = match len {
            0..=BLOCK => copy_block(self.memory, source, 0),
            _ if len <= TWO_BLOCKS => {
                copy_block(self.memory, source, BLOCK) && copy_block(self.memory, source, 0)
            }
            _ => false,
        };
        if copied {
            self.memory = std::mem::take(&mut self.memory).get_mut(len..).unwrap_or_default();
        } else {
            self.put_bytes(source.get(..len).unwrap_or_default());
        }
    }
}

/// Copies the block at `at` if both sides have it, and says whether.
#[inline]
fn copy_block(to: &mut [u8], from: &[u8], at: usize) -> bool {
    let to = to.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<BLOCK>);
    let from = from.get(at..).and_then(<[u8]>::first_chunk::<BLOCK>);
    let (Some(to), Some(from)) = (to, from) else { return false };
    let (halves, blocks) = (to.as_chunks_mut::<{ BLOCK / 2 }>().0, from.as_chunks::<{ BLOCK / 2 }>().0);
    for (to, from) in halves.iter_mut().zip(blocks) {
        *to = *from;
    }
    true
}

impl Drop for Writer<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.len += self.start - self.memory.len();
    }
}
