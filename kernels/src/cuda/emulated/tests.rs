//! Tests: what the pessimistic mode is strict about, and the clock.

use super::*;
use crate::cuda::buffer::Buffer;
use crate::cuda::card::ScalarType;
use crate::cuda::check::Bench;
use crate::cuda::product::answers::dense_checks;
use crate::cuda::timer;
use std::sync::Arc;

const PACE: Pace = Pace { start: Duration::from_micros(10), thread: 0, multiply: 0, byte: 1000 };

/// A card at a pace that can be reckoned by hand, and a pool.
fn pessimistic() -> (Arc<EmulatedCard>, Arc<dyn Card>, Pool) {
    let card = Arc::new(EmulatedCard::pessimistic(1 << 20, PACE));
    let pool = card.create_pool().unwrap();
    (card.clone(), card, pool)
}

fn product(x: u64, out: u64) -> Gemm {
    let (rows, columns, n) = (1, 1, 1);
    Gemm { scalar: ScalarType::F32, rows, columns, n, weights: x, x, out, out_stride: 1 }
}

#[test]
fn calls_return_before_anything_is_done_and_waiting_takes_the_cards_time() {
    let (emulated, card, pool) = pessimistic();
    let x = Buffer::of(&card, pool, &[3.0f32]).unwrap();
    let out = Buffer::<f32>::new(&card, pool, 1).unwrap();
    let mut timer = timer::Timer::new(&card).unwrap();
    timer.start().unwrap();
    // SAFETY: one number each.
    unsafe { card.gemm(product(x.view().address(), out.view().address())) }.unwrap();
    timer.stop().unwrap();
    assert_eq!(emulated.now(), Duration::ZERO, "nobody has waited");
    // SAFETY: the buffer lives.
    let early = unsafe { *(out.view().address() as *const f32) };
    assert!(early.is_nan(), "not computed yet");
    assert_eq!(timer.read().unwrap(), PACE.start);
    assert!(emulated.now() >= PACE.start);
    assert_eq!(out.to_vec().unwrap(), [9.0]);
}

#[test]
fn a_copy_waits_for_the_loaders_and_mapped_memory_does_not() {
    let (emulated, card, pool) = pessimistic();
    let large = Buffer::<u8>::on(&card, pool, 100_000, Stream::Load).unwrap();
    card.upload(large.view().address(), &[1; 100_000], Stream::Load).unwrap();
    card.synchronise(Stream::Load).unwrap();
    let before = emulated.now();
    assert!(before >= Duration::from_micros(110), "100 us at 1 ns a byte");

    card.upload(large.view().address(), &[2; 100_000], Stream::Load).unwrap();
    let pending = emulated.drain(Stream::Load);
    pending.unwrap();
    let mut small = Buffer::<u8>::new(&card, pool, 1).unwrap();
    small.write(0, &[7]).unwrap();
    card.synchronise(Stream::Compute).unwrap();
    assert!(emulated.now() >= before + Duration::from_micros(110), "behind the loader's");
    drop(large);
}

#[test]
fn memory_of_the_other_stream_is_a_fault_until_it_was_waited_for() {
    let (_, card, pool) = pessimistic();
    let x = Buffer::<f32>::on(&card, pool, 1, Stream::Load).unwrap();
    // SAFETY: one number.
    unsafe { card.gemm(product(x.view().address(), x.view().address())) }.unwrap();
    let fault = card.synchronise(Stream::Compute).unwrap_err().to_string();
    assert!(fault.contains("nobody has waited for"), "{fault}");
    assert!(matches!(card.health(), Err(CardError::Dead(_))), "and the card is gone");

    let (_, card, pool) = pessimistic();
    let x = Buffer::<f32>::on(&card, pool, 1, Stream::Load).unwrap();
    card.synchronise(Stream::Load).unwrap();
    // SAFETY: one number.
    unsafe { card.gemm(product(x.view().address(), x.view().address())) }.unwrap();
    drop(x);
    card.synchronise(Stream::Load).unwrap();
    let fault = card.synchronise(Stream::Compute).unwrap_err().to_string();
    assert!(fault.contains("is not allocated"), "given back under a kernel: {fault}");
}

#[test]
fn a_capture_has_the_executors_stream_for_itself_and_the_loaders_goes_on() {
    let (_, card, pool) = pessimistic();
    let mut before = Buffer::of(&card, pool, &[1.0f32]).unwrap();
    card.begin_capture().unwrap();
    for thread in ["this", "another"] {
        let compute = || {
            assert!(card.allocate(pool, 4, Stream::Compute).is_err(), "{thread}");
            assert!(card.synchronise(Stream::Compute).is_err());
            assert!(card.begin_capture().is_err() && card.create_timer().is_ok());
            let loaded = Buffer::<f32>::on(&card, pool, 10, Stream::Load).unwrap();
            card.upload(loaded.view().address(), &[1; 40], Stream::Load).unwrap();
            card.synchronise(Stream::Load).unwrap();
        };
        match thread {
            "this" => compute(),
            _ => std::thread::scope(|scope| scope.spawn(compute).join().unwrap()),
        }
    }
    assert!(before.write(0, &[2.0]).is_err());
    let used = card.pool_usage(pool).unwrap().used;
    drop(before);
    assert_eq!(card.pool_usage(pool).unwrap().used, used, "given back once the capture is over");
    card.end_capture().unwrap();
    card.destroy_pool(pool).unwrap();
}

#[test]
fn sums_are_near_and_not_the_same() {
    let run = |card: Arc<dyn Card>| {
        let pool = card.create_pool().unwrap();
        let checks = dense_checks(&Bench { card, pool }, crate::cuda::check::Size::Full).unwrap();
        let errors: Vec<f64> = checks.iter().map(|check| check.error).collect();
        assert!(checks.iter().all(crate::cuda::check::Check::holds));
        errors
    };
    let prompt = run(Arc::new(EmulatedCard::start(64 << 20)));
    let pessimistic = run(Arc::new(EmulatedCard::pessimistic(64 << 20, Pace::default())));
    let differ = prompt.iter().zip(&pessimistic).filter(|(a, b)| a != b).count();
    assert!(differ * 2 > prompt.len(), "{differ} of {} cases differ", prompt.len());
}

#[test]
fn more_shared_memory_than_the_card_has_is_refused() {
    let (_, card, _) = pessimistic();
    // SAFETY: nothing is run.
    let launch =
        |bytes| unsafe { card.launch("rows_soft_cap", Grid::line(1, 32).shared(bytes), &[]) };
    assert!(matches!(launch((99 << 10) + 1), Err(CardError::Shape(_))));
}
