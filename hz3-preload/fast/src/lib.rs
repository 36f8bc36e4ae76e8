//! `libhakozuna_hz3_fast.so`: hz3's fast lane under the names of the C and C++ allocation functions.

#![no_std]

hz3_preload::export_lane!(hz3_preload::hz3_core::Fast, c"hz3 0.1.0 fast");
