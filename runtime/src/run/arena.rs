//! The memory of one rank: one allocation, in which every buffer has its place.
#![allow(unsafe_code, reason = "buffers are places in one allocation, and kernels take pointers")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// Alignment of the arena and of every buffer in it.
const LINE: usize = 64;

/// A zeroed allocation of a fixed size.
#[derive(Debug)]
pub struct Arena {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the arena owns its memory, and all access goes through `&self` pointers used by the rank that owns it.
unsafe impl Send for Arena {}

impl Arena {
    /// An arena of `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        // SAFETY: the layout has a size above 0.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        Self { base, bytes }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes.max(LINE), LINE).expect("the size of an arena fits the address space")
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address of the buffer at `offset` that has `length` bytes.
    pub fn address(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(offset + length <= self.bytes, "a buffer at {offset} of {length} bytes lies outside an arena of {}", self.bytes);
        // SAFETY: the offset was just checked to be inside the allocation.
        unsafe { self.base.add(offset) }
    }

    /// The bytes of a buffer. The caller has no other reference into the buffer while it uses them.
    #[expect(clippy::mut_from_ref, reason = "buffers of one arena are disjoint; instructions name them one at a time")]
    pub fn bytes_of(&self, offset: usize, length: usize) -> &mut [u8] {
        let start = self.address(offset, length);
        // SAFETY: in bounds as checked by `address`, initialised (zeroed at first), and not aliased while in use: the
        // executor takes at most one slice of a buffer at a time, and two only of buffers that do not overlap.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.base, Self::layout(self.bytes)) }
    }
}
