//! Upkeep: returns free memory to the system as time passes.

pub mod holes;
pub mod pressure;
pub mod repay;
pub mod rest;
pub mod round;
pub mod schedule;
pub mod trim;
pub mod vacate;
