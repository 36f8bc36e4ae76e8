//! Counts down the bytes until a thread's next heap-profile sample.
//!
//! Gaps between samples are exponentially distributed, so every byte is equally likely to be hit. A block of `b` bytes
//! is sampled with probability `1 - exp(-b / interval)`, by which readers of the profile divide.

/// A thread's countdown. All zeros: not started.
pub struct Pace {
    /// Bytes left; the allocation that makes it negative is sampled.
    left: i64,
    /// State of the generator; 0 until the start.
    random: u64,
    /// The thread is taking a sample; its allocations do not count.
    is_busy: bool,
}

/// Increment of the generator (SplitMix64; Steele, Lea and Flood, 2014).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Pace {
    /// Starts, once, from a seed that no other thread has.
    pub fn start(&mut self, seed: u64, interval_bytes: usize) {
        if self.random == 0 {
            // Mixed: nearby states are nearby places in one sequence.
            self.random = mixed(seed) | 1;
            self.left = self.gap(interval_bytes);
        }
    }

    /// Counts an allocation of `bytes`; true if it is to be sampled.
    pub fn is_due(&mut self, bytes: usize, interval_bytes: usize) -> bool {
        if self.is_busy {
            return false;
        }
        self.left = self.left.saturating_sub(i64::try_from(bytes.max(1)).unwrap_or(i64::MAX));
        if self.left >= 0 {
            return false;
        }
        self.left = self.gap(interval_bytes);
        true
    }

    /// Tells that the thread takes a sample, or no longer does.
    pub fn set_busy(&mut self, is_busy: bool) {
        self.is_busy = is_busy;
    }

    fn gap(&mut self, interval_bytes: usize) -> i64 {
        // As many bits as a double's mantissa, never 0.
        let uniform = ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        (minus_ln(uniform) * interval_bytes as f64) as i64
    }

    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(GOLDEN);
        mixed(self.random)
    }
}

/// SplitMix64's output function.
fn mixed(state: u64) -> u64 {
    let first = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let second = (first ^ (first >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    second ^ (second >> 31)
}

/// `-ln(value)` for 0 < `value` <= 1; `core` has no logarithm. For the mantissa, the series of the inverse hyperbolic
/// tangent, whose ninth term is below 10^-9.
fn minus_ln(value: f64) -> f64 {
    const MANTISSA_BITS: u32 = 52;
    const BIAS: u64 = 1023;
    let bits = value.to_bits();
    let exponent = ((bits >> MANTISSA_BITS) & 0x7ff) as f64 - BIAS as f64;
    let mantissa = f64::from_bits(bits & ((1 << MANTISSA_BITS) - 1) | BIAS << MANTISSA_BITS);
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let (mut power, mut sum) = (ratio, 0.0);
    for odd in [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0] {
        sum += power / odd;
        power *= ratio * ratio;
    }
    -(exponent * core::f64::consts::LN_2 + 2.0 * sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_agrees_with_the_library_s() {
        for step in 1..=10_000 {
            let value = f64::from(step) / 10_000.0;
            assert!((minus_ln(value) + value.ln()).abs() < 1e-8, "{value}");
        }
        let least = 1.0 / (1_u64 << 53) as f64;
        assert!((minus_ln(least) + least.ln()).abs() < 1e-8);
    }

    #[test]
    fn blocks_are_sampled_as_often_as_readers_assume() {
        const INTERVAL: usize = 512 << 10;
        for (bytes, blocks) in [(1_usize, 40_000_000_u32), (1000, 10_000_000), (300 << 10, 100_000), (4 << 20, 10_000)]
        {
            let mut pace = Pace { left: 0, random: 0, is_busy: false };
            pace.start(bytes as u64, INTERVAL);
            let sampled = (0..blocks).filter(|_| pace.is_due(bytes, INTERVAL)).count() as f64;
            let share = 1.0 - (-(bytes as f64) / INTERVAL as f64).exp();
            let expected = f64::from(blocks) * share;
            // Five standard deviations of a binomial count. The seed is fixed, so this passes always or never.
            let tolerance = 5.0 * (expected * (1.0 - share)).sqrt() + 1.0;
            assert!((sampled - expected).abs() < tolerance, "{bytes}: {sampled} in place of {expected}");
        }
    }

    #[test]
    fn a_thread_that_takes_a_sample_is_not_sampled() {
        let mut pace = Pace { left: 0, random: 0, is_busy: false };
        pace.start(1, 1);
        pace.set_busy(true);
        assert!(!pace.is_due(usize::MAX, 1));
        pace.set_busy(false);
        assert!(pace.is_due(usize::MAX, 1));
    }
}
