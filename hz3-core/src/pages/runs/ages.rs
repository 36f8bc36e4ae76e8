//! Ages: the dirty runs in the order in which they became dirty, a list through their descriptors.

use super::{Index, Runs};
use crate::pages::span::Kind;
use crate::platform::os::Os;
use crate::platform::units::SpanId;

impl<O: Os> Runs<O> {
    pub(super) fn append_youngest(&self, index: &mut Index, id: SpanId) {
        let older = index.youngest;
        (self.span(id).older, self.span(id).younger) = (older, SpanId::NONE);
        if older.is_none() {
            index.oldest = id;
        } else {
            self.span(older).younger = id;
        }
        index.youngest = id;
    }

    pub(super) fn insert_age_before(&self, index: &mut Index, id: SpanId, younger: SpanId) {
        let older = self.span(younger).older;
        (self.span(id).older, self.span(id).younger) = (older, younger);
        self.span(younger).older = id;
        if older.is_none() {
            index.oldest = id;
        } else {
            self.span(older).younger = id;
        }
    }

    pub(super) fn forget_age(&self, index: &mut Index, id: SpanId) {
        let (kind, older, younger) = {
            let span = self.span(id);
            (span.kind, span.older, span.younger)
        };
        if kind != Kind::Dirty {
            return;
        }
        if older.is_none() {
            index.oldest = younger;
        } else {
            self.span(older).younger = younger;
        }
        if younger.is_none() {
            index.youngest = older;
        } else {
            self.span(younger).older = older;
        }
    }
}
