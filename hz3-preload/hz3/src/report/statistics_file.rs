//! Statistics file: what a process under hz3 wrote at its exit (`HZ3_STATS_JSON`), in the form that
//! `docs/statistics.md` describes, to the letter.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;

/// One process's statistics.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct StatisticsFile {
    schema: u32,
    #[serde(rename = "version")]
    _version: String,
    /// Name of the lane.
    pub lane: String,
    /// The process.
    pub pid: u32,
    counts: BTreeMap<String, u64>,
    uses: BTreeMap<String, u64>,
    resident: Resident,
    /// Size classes that have spans.
    pub bins: Vec<Bin>,
    /// Shards, in order.
    pub shards: Vec<Shard>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Resident {
    process: u64,
    arenas: u64,
}

/// A size class.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    /// Bytes of a slot.
    pub slot_bytes: u64,
    live: u64,
    span_bytes: u64,
    in_threads: u64,
    in_depots: u64,
    /// Slots that threads handed on.
    pub freed: u64,
    /// Of them, other shards'.
    pub foreign: u64,
    adopted: u64,
    batches: u64,
    batched: u64,
}

/// A shard.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    span_bytes: u64,
    out_bytes: u64,
    depot_bytes: u64,
    inbox_bytes: u64,
    /// Slots that its threads handed on, by the owning shard.
    pub freed_by_owner: Vec<u64>,
}

impl StatisticsFile {
    /// Whether `text` is meant to be such a file.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("{\"schema\":") && text.contains("\"counts\":")
    }

    /// Reads a file's text and checks that its parts agree.
    pub fn read(text: &str) -> Result<Self> {
        let file: StatisticsFile = serde_json::from_str(text).context("not a statistics file")?;
        ensure!(file.schema == 1, "schema {} is not known to this version", file.schema);
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<()> {
        let mapped = self.counts.get("mapped_bytes").copied();
        let uses: u64 = self.uses.values().sum();
        ensure!(mapped == Some(uses), "the uses add up to {uses}, and {mapped:?} is mapped");
        ensure!(self.resident.arenas <= self.resident.process, "the arenas hold more than the process");
        for bin in &self.bins {
            let slots = bin.live + bin.in_threads + bin.in_depots;
            ensure!(slots * bin.slot_bytes <= bin.span_bytes, "more slots of {} bytes than in spans", bin.slot_bytes);
            ensure!(bin.adopted <= bin.foreign && bin.foreign <= bin.freed, "heat of {} bytes", bin.slot_bytes);
            ensure!(bin.batches <= bin.batched, "empty batches of {} bytes", bin.slot_bytes);
        }
        let spans = |bytes: &mut dyn Iterator<Item = u64>| bytes.sum::<u64>();
        let by_bin = spans(&mut self.bins.iter().map(|bin| bin.span_bytes));
        let by_shard = spans(&mut self.shards.iter().map(|shard| shard.span_bytes));
        ensure!(by_bin == by_shard, "spans by bin {by_bin} and by shard {by_shard}");
        for shard in &self.shards {
            ensure!(shard.out_bytes <= shard.span_bytes, "more out than there is");
            ensure!(shard.freed_by_owner.len() == self.shards.len(), "a flow of another length");
        }
        let depots: u64 = self.shards.iter().map(|shard| shard.depot_bytes + shard.inbox_bytes).sum();
        ensure!(self.uses.get("depots") == Some(&depots), "depots by use and by shard");
        Ok(())
    }

    /// Slots handed on in all, by flow.
    pub fn flow(&self) -> u64 {
        self.shards.iter().flat_map(|shard| &shard.freed_by_owner).sum()
    }
}
