//! `libhakozuna_hz3_hardened.so`: hz3's hardened lane under the names of the C and C++ allocation functions.

#![no_std]

hz3_preload::export_lane!(hz3_preload::hz3_core::Hardened, c"hz3 0.1.0 hardened");
