//! Span queue: spans that wait for their turn, linked through their descriptors.
//!
//! ```text
//! first (oldest) → span → … → last (youngest)        in at the end; out at the front, or where one fits
//! ```

use crate::pages::page_tag::Kind;
use crate::pages::span::{Spans, at};
use crate::platform::units::SpanId;

/// Spans in a queue, whose descriptors belong to whoever may change it.
pub struct SpanQueue {
    first: SpanId,
    last: SpanId,
    count: usize,
    bytes: usize,
}

impl SpanQueue {
    /// No span.
    #[allow(clippy::new_without_default, reason = "only statics have one")]
    pub const fn new() -> Self {
        Self { first: SpanId::NONE, last: SpanId::NONE, count: 0, bytes: 0 }
    }

    /// Number of spans.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a span, whose descriptor the queue owns from here on, at the end.
    pub fn push(&mut self, spans: &Spans, id: SpanId) {
        // SAFETY: descriptors in the queue, and the one that enters it, are the caller's to change.
        unsafe {
            (*at(spans, id)).next = SpanId::NONE;
            self.bytes += (*at(spans, id)).bytes();
            if self.last.is_none() {
                self.first = id;
            } else {
                (*at(spans, self.last)).next = id;
            }
        }
        self.last = id;
        self.count += 1;
    }

    /// Takes the oldest span out; the caller owns its descriptor then.
    pub fn pop(&mut self, spans: &Spans) -> Option<SpanId> {
        self.take(spans, 1, |_, _| true)
    }

    /// Takes the first of the `looks` oldest spans out whose start and bytes `fits` accepts; the caller owns its
    /// descriptor then.
    pub fn take(&mut self, spans: &Spans, looks: usize, fits: impl Fn(usize, usize) -> bool) -> Option<SpanId> {
        let (mut before, mut id) = (SpanId::NONE, self.first);
        for _ in 0..looks {
            if id.is_none() {
                return None;
            }
            // SAFETY: as in `push`.
            let (start, bytes, next) = unsafe {
                let span = &*at(spans, id);
                (span.start, span.bytes(), span.next)
            };
            if !fits(start, bytes) {
                (before, id) = (id, next);
                continue;
            }
            if before.is_none() {
                self.first = next;
            } else {
                // SAFETY: as in `push`.
                unsafe { (*at(spans, before)).next = next };
            }
            if next.is_none() {
                self.last = before;
            }
            self.count -= 1;
            self.bytes -= bytes;
            return Some(id);
        }
        None
    }

    /// Checks that all spans in the queue are of `kind`, and its counts.
    ///
    /// # Errors
    /// Names the broken rule.
    pub fn check(&self, spans: &Spans, kind: Kind) -> Result<(), &'static str> {
        let (mut count, mut bytes, mut last, mut id) = (0, 0, SpanId::NONE, self.first);
        while !id.is_none() {
            // SAFETY: as in `push`.
            let span = unsafe { &*at(spans, id) };
            if span.kind != kind {
                return Err("a span that waits and is in use");
            }
            (count, bytes, last, id) = (count + 1, bytes + span.bytes(), id, span.next);
        }
        if (count, bytes, last) == (self.count, self.bytes, self.last) {
            Ok(())
        } else {
            Err("the count of spans that wait")
        }
    }
}
