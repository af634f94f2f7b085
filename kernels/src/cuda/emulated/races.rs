//! Tests of the race checker: kernels with one deliberate error each (`host/planted.cpp`), and some without.

use super::{requests, *};
use crate::cuda::buffer::Buffer;
use std::sync::Arc;

/// Numbers that a planted kernel is given; the first half of them are written.
const NUMBERS: usize = 2048;

/// Runs kernels one after the other, each in so many blocks of 64 threads with so much shared memory.
fn run_all(
    kernels: &[&'static str],
    blocks: usize,
    shared: usize,
    order: u64,
) -> Result<(), CardError> {
    let emulated = EmulatedCard::start(1 << 20);
    emulated.set_order(order);
    let card: Arc<dyn Card> = Arc::new(emulated);
    let pool = card.create_pool()?;
    let mut data = Buffer::<f32>::new(&card, pool, NUMBERS)?;
    data.write(0, &[0.0; NUMBERS / 2])?;
    let grid = Grid::line(blocks, 64).shared(shared);
    let args = [Arg::Address(data.view().address())];
    // SAFETY: planted kernels take one address; what they do beyond it is what the checker refuses.
    kernels.iter().try_for_each(|kernel| unsafe { card.launch(kernel, grid, &args) })
}

fn run(kernel: &'static str, blocks: usize, shared: usize, order: u64) -> Result<(), CardError> {
    run_all(&[kernel], blocks, shared, order)
}

/// Kernel, blocks, bytes of shared memory, and what its error says whatever the order of threads.
const PLANTED: &[(&str, usize, usize, &[&str])] = &[
    ("planted_shared_no_barrier", 1, 256, &["shared memory", "4 bytes", "nothing orders"]),
    ("planted_shared_overwritten", 1, 256, &["shared memory", "nothing orders"]),
    ("planted_shared_all_write", 1, 4, &["shared memory, byte 0", " writes 4", "wrote 4"]),
    ("planted_shared_shuffle", 1, 256, &["shared memory", "nothing orders"]),
    ("planted_shared_half_a_warp", 1, 256, &["shared memory", "nothing orders"]),
    ("planted_shared_read_by_warps", 1, 256, &["shared memory, byte 0", "nothing orders"]),
    ("planted_shared_atomic_and_plain", 1, 4, &["shared memory, byte 0", "nothing orders"]),
    ("planted_bytes_of_one_word", 1, 64, &["shared memory", " writes 1 bytes", "wrote 1 bytes"]),
    ("planted_global_no_barrier", 1, 0, &["global memory", "of an allocation of 8192"]),
    ("planted_blocks_write_one_place", 2, 0, &["byte 0 of an", "block 1 writes", "block 0 wrote"]),
    ("planted_block_reads_anothers", 2, 0, &["byte 0 of an", "block 1 reads", "block 0 wrote"]),
    ("planted_blocks_read_then_one_writes", 4, 0, &["thread 5 of block 3 writes", " read: 4"]),
    ("planted_last_block_not_released", 2, 4, &["block 1 reads", "block 0 wrote", "orders"]),
    ("planted_last_block_not_acquired", 2, 4, &["block 1 reads", "block 0 wrote", "orders"]),
    ("planted_shared_unwritten", 1, 256, &["shared memory", "nobody has written"]),
    ("planted_global_unwritten", 1, 0, &["global memory", "nobody has written"]),
    ("planted_shared_beyond", 1, 256, &["byte 256", "thread 0", "beyond the 256 bytes"]),
    ("planted_global_beyond", 1, 0, &["outside of every allocation", "4 bytes"]),
    ("planted_global_before", 1, 0, &["outside of every allocation", "thread 0"]),
    ("planted_copy_not_waited_for", 1, 1024, &["reads 4", "a copy of", "16 bytes"]),
    ("planted_copy_one_group_too_many", 1, 2048, &["reads 4", "a copy of", "16 bytes"]),
    ("planted_copy_no_barrier", 1, 1024, &["shared memory"]),
    ("planted_copy_into_what_is_read", 1, 1024, &["shared memory", "16 bytes", "nothing orders"]),
    ("planted_early_write", 1, 0, &["global memory", "before it has waited for the launch before"]),
];

#[test]
fn planted_errors_are_found_and_named() {
    for (kernel, blocks, shared, parts) in PLANTED {
        for order in [0, 1, 12345] {
            let error = run(kernel, *blocks, *shared, order).expect_err(kernel).to_string();
            let named = [*kernel, "thread ", " of block ", " bytes at 0x"];
            for part in parts.iter().chain(&named) {
                assert!(error.contains(part), "{part:?} is not in {error:?} (order {order})");
            }
        }
    }
}

#[test]
fn what_is_ordered_is_no_error() {
    for (kernel, blocks, shared) in [
        ("planted_right_shared", 3, 256),
        ("planted_right_last_block", 3, 4),
        ("planted_right_last_block_one_fence", 3, 4),
        ("planted_right_is_last", 3, 4),
        ("planted_right_copies", 3, 1024),
        ("planted_right_bytes", 3, 64),
        ("planted_right_atomics", 3, 4),
        ("planted_early_read", 1, 0),
    ] {
        for order in [0, 1, 12345] {
            run(kernel, blocks, shared, order).unwrap();
        }
    }
}

#[test]
fn what_another_launch_writes_is_waited_for() {
    let error = run_all(&["planted_right_shared", "planted_early_read"], 1, 256, 0).unwrap_err();
    let error = error.to_string();
    for part in ["planted_early_read", "global memory", "before it has waited", "another launch"] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn requests_of_warps_are_counted() {
    // Kernel, whether shared memory, requests, and units and the least of them for each request.
    for (kernel, shared, expected) in [
        ("planted_request_dense", false, (4, 4, 4)),
        ("planted_request_strided", false, (4, 6, 4)),
        ("planted_request_vectors", false, (4, 16, 16)),
        ("planted_request_banks", true, (2, 32, 1)),
        ("planted_request_padded", true, (2, 1, 1)),
        ("planted_request_one_word", true, (4, 1, 1)),
    ] {
        requests::count(true);
        run(kernel, 1, 8192, 12345).unwrap();
        let counted = requests::counted();
        let of = |field: fn(&requests::Requests) -> u64| -> u64 {
            counted.iter().filter(|found| found.shared == shared).map(field).sum()
        };
        let requests = of(|found| found.requests);
        let found = (requests, of(|f| f.units) / requests, of(|f| f.least) / requests);
        assert_eq!(found, expected, "{kernel}: {counted:?}");
    }
    requests::count(false);
    run("planted_request_dense", 1, 0, 0).unwrap();
    assert!(requests::counted().is_empty());
}
