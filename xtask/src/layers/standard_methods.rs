//! Standard methods: names that `core` and `std` use so widely that a call of one says nothing about its file.

const NAMES: &str = "
    abs add all alloc alloc_zeroed and_then any append as_bytes as_mut as_mut_ptr as_os_str as_path as_ptr as_ref as_slice
    as_str borrow borrow_mut capacity cast cast_mut cast_const ceil chain chars checked_add checked_div checked_mul
    checked_sub chunks clamp clear clone cmp collect compare_exchange compare_exchange_weak concat contains
    contains_key copied copy_from copy_from_nonoverlapping copy_to count count_ones dealloc default deref deref_mut
    display div_ceil drain drop each end end_with ends_with entry enumerate eq err exists expect extend fetch_add fetch_and
    fetch_max fetch_min fetch_or fetch_sub fetch_update fetch_xor fill filter filter_map find find_map finish first
    flat_map flatten flush fmt fold for_each from from_str get get_mut get_or_init get_or_insert_with hash height id
    index init insert inspect into into_inner into_iter is_aligned is_ascii is_dir is_empty is_err is_file is_none
    is_none_or is_null is_ok is_power_of_two is_some is_some_and iter iter_mut join kill last leading_zeros len lines
    load lock lt map map_err map_or map_or_else map_while max max_by_key min min_by_key mul name ne new next
    next_multiple_of next_power_of_two nth offset offset_from ok ok_or ok_or_else open or or_default or_else or_insert
    or_insert_with output park parse partial_cmp peek pop pop_front position pow product ptr push push_back push_front
    push_str read read_line read_to_string read_unaligned read_volatile realloc recv rem_euclid remove repeat replace
    reserve reset resize retain rev rfind rotate_left rposition rsplit run saturating_add saturating_mul saturating_sub
    seek send set size skip skip_while sort sort_unstable spawn split split_at split_whitespace start start_with starts_with
    status step_by stop store sub sum swap take take_while then then_some to_owned to_string to_vec trailing_zeros trim
    truncate try_borrow try_from try_into try_lock unlock unpark unwrap unwrap_or unwrap_or_default unwrap_or_else
    update value values wait wake windows with wrapping_add wrapping_mul wrapping_sub write write_all write_bytes
    write_char write_fmt write_str write_unaligned write_volatile yield_now zip
";

/// Whether `name` is one of them.
pub fn has(name: &str) -> bool {
    NAMES.split_whitespace().any(|standard| standard == name)
}
