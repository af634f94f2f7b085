//! What every card has to do, on each that is at hand: the real one (`skipped: no GPU` where there is none), the
//! emulated one, and, in a process of its own, the real one's code over a stand-in for the driver
//! (`host/driver.cpp`), which is late wherever a driver may be and can be made to fail.
#![cfg(any(feature = "cuda", feature = "emulator"))]

use parking_lot::{Mutex, MutexGuard};
use serin_kernels::cuda::check::{Bench, Numbers};
use serin_kernels::cuda::{
    Buffer, Card, CardError, FAMILIES, Gemm, Memory, Pool, ScalarType, Size, Stream,
};
use std::sync::Arc;

const MIB: usize = 1 << 20;

/// One test at a time: they compare free memory.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock()
}

/// Runs a test on every card.
fn each(test: impl Fn(&Arc<dyn Card>)) {
    let _alone = alone();
    cards().iter().for_each(test);
}

/// Every card that is at hand, or the one that `SERIN_CARD` names; over the stand-in, the one that it stands in for.
fn cards() -> Vec<Arc<dyn Card>> {
    let named = std::env::var("SERIN_CARD").ok().filter(|_| !stand_in::is_here());
    match named {
        Some(name) if name.starts_with("cuda") => real(&name).into_iter().collect(),
        Some(name) => vec![serin_kernels::cuda::open(&name).unwrap()],
        None => real("cuda").into_iter().chain(emulated()).collect(),
    }
}

fn emulated() -> Vec<Arc<dyn Card>> {
    let wanted = cfg!(feature = "emulator") && !stand_in::is_here();
    let names = ["emulated", "pessimistic"].iter().filter(|_| wanted);
    names.map(|name| serin_kernels::cuda::open(name).unwrap()).collect()
}

#[cfg(not(feature = "cuda"))]
fn real(_name: &str) -> Option<Arc<dyn Card>> {
    None
}

#[cfg(feature = "cuda")]
fn real(name: &str) -> Option<Arc<dyn Card>> {
    #[cfg(feature = "emulator")]
    stand_in::start();
    match serin_kernels::cuda::open(name) {
        Ok(card) => {
            println!("on {} ({:?})", card.properties().name, card.readings());
            Some(card)
        }
        Err(error) if error.is_absence() => {
            say_once(&format!("skipped: no GPU ({error})"));
            None
        }
        Err(error) => panic!("the GPU cannot be used: {error}"),
    }
}

/// Past the test runner, which keeps what tests print to itself.
#[cfg(feature = "cuda")]
fn say_once(what: &str) {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{what}\n").as_bytes());
    });
}

fn bytes(count: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(count as u64);
    let words = (0..count.div_ceil(8)).flat_map(|_| numbers.bits().to_le_bytes());
    words.take(count).collect()
}

#[test]
fn a_pool_holds_what_was_taken_and_gives_all_of_it_back() {
    each(|card| {
        let before = card.memory().unwrap();
        let pool = card.create_pool().unwrap();
        let first: Buffer<u8> = Buffer::new(card, pool, 40 * MIB).unwrap();
        let second: Buffer<f32> = Buffer::new(card, pool, 1000).unwrap();
        assert_eq!((first.view().address() % 256, second.view().address() % 256), (0, 0));
        let full = card.pool_usage(pool).unwrap();
        assert!(full.used >= 40 << 20 && full.used <= full.reserved, "{full:?}");
        assert!(card.memory().unwrap().free <= before.free - (40 << 20));

        drop(first);
        card.trim_pool(pool).unwrap();
        let half = card.pool_usage(pool).unwrap();
        // What is left may lie in a piece that the first one has left half empty.
        assert!((4000..8 << 20).contains(&half.used) && half.reserved <= full.reserved, "{half:?}");
        let refused = card.destroy_pool(pool).unwrap_err().to_string();
        assert!(refused.contains("in use"), "{refused}");

        drop(second);
        card.synchronise(Stream::Compute).unwrap();
        let kept = card.pool_usage(pool).unwrap();
        assert!(kept.used == 0 && kept.reserved > 0, "kept for reuse, not handed back: {kept:?}");
        card.trim_pool(pool).unwrap();
        assert_eq!(card.pool_usage(pool).unwrap(), Default::default());
        card.destroy_pool(pool).unwrap();
        assert!(card.pool_usage(pool).is_err() && card.destroy_pool(pool).is_err());
        assert!(card.allocate(pool, 1, Stream::Compute).is_err());
        assert!(card.memory().unwrap().free + (16 << 20) >= before.free);
    });
}

#[test]
fn every_buffer_lies_in_the_pool_that_was_named() {
    each(|card| {
        let pools: Vec<Pool> = (0..3).map(|_| card.create_pool().unwrap()).collect();
        let buffers: Vec<(Pool, Buffer<u8>)> = (0..30)
            .map(|i| {
                let stream = if i % 2 == 0 { Stream::Compute } else { Stream::Load };
                (pools[i % 3], Buffer::on(card, pools[i % 3], 1000 + 777 * i, stream).unwrap())
            })
            .collect();
        card.synchronise(Stream::Load).unwrap();
        for (pool, buffer) in &buffers {
            let (start, len) = (buffer.view().address(), buffer.len() as u64);
            assert_eq!(card.pool_of(start), Ok(*pool));
            assert_eq!(card.pool_of(start + len - 1), Ok(*pool));
        }
        assert!(card.pool_of(64).is_err());
        drop(buffers);
        pools.iter().for_each(|pool| card.destroy_pool(*pool).unwrap());
    });
}

#[test]
fn copies_of_every_size_come_back_as_they_were() {
    each(|card| {
        let pool = card.create_pool().unwrap();
        for stream in [Stream::Load, Stream::Compute] {
            for count in [1, 65536, 65537, 4 * MIB, 4 * MIB + 1, 20 * MIB] {
                let mut source = bytes(count);
                let mut buffer: Buffer<u8> = Buffer::on(card, pool, count + 3, stream).unwrap();
                buffer.write_on(3, &source, stream).unwrap();
                // What was handed over may be changed at once.
                let sent = source.clone();
                source.fill(0);
                card.synchronise(stream).unwrap();
                let mut back = vec![0; count];
                buffer.read(3, &mut back).unwrap();
                assert!(back == sent, "{count} bytes on {stream:?}");
            }
        }
        card.destroy_pool(pool).unwrap();
    });
}

#[test]
fn bytes_are_filled_and_copies_keep_their_order() {
    each(|card| {
        let pool = card.create_pool().unwrap();
        let mut buffer: Buffer<u8> = Buffer::new(card, pool, 3 * MIB).unwrap();
        for round in 1..6u8 {
            buffer.fill(round).unwrap();
            buffer.write(MIB, &vec![round + 100; MIB]).unwrap();
            buffer.write(MIB, &[round + 200; 10]).unwrap();
        }
        let all = buffer.to_vec().unwrap();
        assert!(all[..MIB].iter().chain(&all[2 * MIB..]).all(|byte| *byte == 5));
        assert!(all[MIB..MIB + 10].iter().all(|byte| *byte == 205));
        assert!(all[MIB + 10..2 * MIB].iter().all(|byte| *byte == 105));
        drop(buffer);
        card.destroy_pool(pool).unwrap();
    });
}

#[test]
fn memory_that_is_not_there_is_an_error_and_the_card_goes_on() {
    each(|card| {
        let pool = card.create_pool().unwrap();
        let Memory { total, .. } = card.memory().unwrap();
        let wanted = total as usize + MIB;
        let refused = Buffer::<u8>::new(card, pool, wanted).map(drop);
        assert_eq!(refused, Err(CardError::OutOfMemory { bytes: wanted }));
        card.health().unwrap();
        let buffer = Buffer::of(card, pool, &[1u32, 2, 3]).unwrap();
        assert_eq!(buffer.to_vec().unwrap(), [1, 2, 3]);
        drop(buffer);
        card.destroy_pool(pool).unwrap();
    });
}

/// Products of one kind of number, `n` by `columns` and `rows` by `columns`.
struct Products {
    gemm: Gemm,
    x: Buffer<u8>,
    _weights: Buffer<u8>,
    out: Buffer<f32>,
    sources: [Vec<f32>; 2],
}

impl Products {
    fn new(card: &Arc<dyn Card>, pool: Pool, scalar: ScalarType, shape: [usize; 3]) -> Products {
        let [rows, columns, n] = shape;
        let mut numbers = Numbers::new(rows as u64);
        // Sixteenths are exact in every kind.
        let mut some = |count| -> Vec<f32> {
            (0..count).map(|_| numbers.below(65) as f32 / 16.0 - 2.0).collect()
        };
        let sources = [some(n * columns), some(rows * columns)];
        let x = Buffer::of(card, pool, &stored(scalar, &sources[0])).unwrap();
        let weights = Buffer::of(card, pool, &stored(scalar, &sources[1])).unwrap();
        let out_stride = rows + 3;
        let out = Buffer::new(card, pool, n * out_stride).unwrap();
        let gemm = Gemm {
            scalar,
            rows,
            columns,
            n,
            weights: weights.view().address(),
            x: x.view().address(),
            out: out.view().address(),
            out_stride,
        };
        Products { gemm, x, _weights: weights, out, sources }
    }

    fn run(&self, card: &Arc<dyn Card>) -> Result<(), CardError> {
        // SAFETY: the buffers have these shapes, and live as long as `self`.
        unsafe { card.gemm(self.gemm) }
    }

    fn check(&self) {
        let Gemm { scalar, rows, columns, n, out_stride, .. } = self.gemm;
        let got = self.out.to_vec().unwrap();
        for (i, row) in (0..n).flat_map(|i| (0..rows).map(move |row| (i, row))) {
            let [x, weights] = &self.sources;
            let pairs =
                x[i * columns..][..columns].iter().zip(&weights[row * columns..][..columns]);
            let expected: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let got = f64::from(got[i * out_stride + row]);
            let error = (got - expected).abs() / (1.0 + expected.abs());
            assert!(
                error < 1e-5,
                "{scalar:?} {rows}x{columns}: [{i}][{row}]: {got}, not {expected}"
            );
        }
    }
}

fn stored(scalar: ScalarType, values: &[f32]) -> Vec<u8> {
    let each = |value: &f32| match scalar {
        ScalarType::F32 => value.to_le_bytes().to_vec(),
        ScalarType::F16 => half::f16::from_f32(*value).to_le_bytes().to_vec(),
        ScalarType::BF16 => half::bf16::from_f32(*value).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(each).collect()
}

#[test]
fn products_are_right_in_every_kind_of_number() {
    each(|card| {
        let pool = card.create_pool().unwrap();
        for scalar in [ScalarType::F32, ScalarType::F16, ScalarType::BF16] {
            for shape in [[1, 1, 1], [5, 7, 3], [64, 128, 1], [200, 96, 33], [128, 512, 16]] {
                let mut products = Products::new(card, pool, scalar, shape);
                products.out.fill(0xff).unwrap();
                products.run(card).unwrap();
                products.check();
            }
        }
        card.destroy_pool(pool).unwrap();
    });
}

#[test]
fn a_captured_graph_gives_what_launches_give() {
    each(|card| {
        let pool = card.create_pool().unwrap();
        let mut products: Vec<Products> = [[5, 64, 3], [96, 32, 9]]
            .map(|shape| Products::new(card, pool, ScalarType::BF16, shape))
            .into();
        products.iter().for_each(|one| one.run(card).unwrap());
        products.iter().for_each(Products::check);
        products.iter_mut().for_each(|one| one.out.fill(0xff).unwrap());

        let short: Buffer<u8> = Buffer::new(card, pool, MIB).unwrap();
        card.begin_capture().unwrap();
        products.iter().for_each(|one| one.run(card).unwrap());
        assert!(card.allocate(pool, 1, Stream::Compute).is_err());
        drop(short);
        let graph = card.end_capture().unwrap();
        assert!(card.end_capture().is_err());
        let untouched = products[0].out.to_vec().unwrap();
        assert!(untouched.iter().all(|value| value.is_nan()), "captured, not run");

        for _ in 0..3 {
            card.launch_graph(graph).unwrap();
            products.iter().for_each(Products::check);
            products.iter_mut().for_each(|one| one.out.fill(0xff).unwrap());
        }
        // Other inputs at the same addresses.
        for one in &mut products {
            one.sources[0].iter_mut().for_each(|value| *value = -*value);
            let bytes = stored(ScalarType::BF16, &one.sources[0]);
            one.x.write(0, &bytes).unwrap();
        }
        card.launch_graph(graph).unwrap();
        products.iter().for_each(Products::check);

        card.destroy_graph(graph).unwrap();
        assert!(card.launch_graph(graph).is_err());
        drop(products);
        card.destroy_pool(pool).unwrap();
    });
}

#[test]
fn a_timer_takes_the_cards_own_time_and_mapped_memory_is_read_where_it_lies() {
    use serin_kernels::cuda::{Mapped, StepInputs, Timer};
    each(|card| {
        let pool = card.create_pool().unwrap();
        let mut timer = Timer::new(card).unwrap();
        assert!(timer.read().is_err(), "nothing was marked");
        let products = Products::new(card, pool, ScalarType::F32, [64, 64, 8]);
        // The driver loads what a launch needs when it is launched first.
        products.run(card).unwrap();
        timer.start().unwrap();
        products.run(card).unwrap();
        timer.stop().unwrap();
        let (one, begun) = (timer.read().unwrap(), std::time::Instant::now());
        timer.start().unwrap();
        (0..200).for_each(|_| products.run(card).unwrap());
        timer.stop().unwrap();
        let many = timer.read().unwrap();
        assert!(one > std::time::Duration::ZERO && many > one, "{one:?}, {many:?}");
        if !card.properties().emulated && !stand_in::is_here() {
            assert!(many <= begun.elapsed(), "a part of the host's: {many:?}");
        }

        let mut inputs = StepInputs::new(card, pool, [100, 4, 4, 0]).unwrap();
        card.synchronise(Stream::Load).unwrap();
        for round in 0..20u32 {
            let words: Vec<u32> = (0..100).map(|i| i * 7 + round).collect();
            inputs.write(0, &words).unwrap();
            inputs.fetch(&**card, 0..1).unwrap();
            let view = inputs.section::<u32>(0);
            let mut got = vec![0u8; 400];
            card.download(view.address(), &mut got, Stream::Compute).unwrap();
            let wanted: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            assert!(got == wanted, "round {round}");
        }
        let mut mapped = Mapped::<u32>::new(card, 5).unwrap();
        mapped.write(3, &[1u32, 2]).unwrap();
        assert!(mapped.write(4, &[1u64]).is_err());
        drop((products, inputs, mapped, timer));
        card.destroy_pool(pool).unwrap();
    });
}

#[test]
fn a_loader_works_beside_steps_and_captures() {
    each(|card| {
        let pool = card.create_pool().unwrap();
        let products = Products::new(card, pool, ScalarType::F16, [48, 64, 4]);
        products.run(card).unwrap();
        std::thread::scope(|scope| {
            let loader = scope.spawn(|| {
                card.enter().unwrap();
                let pool = card.create_pool().unwrap();
                for round in 0..20 {
                    let source = bytes(MIB + round);
                    let mut buffer: Buffer<u8> =
                        Buffer::on(card, pool, source.len(), Stream::Load).unwrap();
                    buffer.write_on(0, &source, Stream::Load).unwrap();
                    let mut back = vec![0; source.len()];
                    let from = buffer.view().address();
                    card.download(from, &mut back, Stream::Load).unwrap();
                    assert!(back == source);
                }
                pool
            });
            for _ in 0..20 {
                card.begin_capture().unwrap();
                products.run(card).unwrap();
                let graph = card.end_capture().unwrap();
                card.launch_graph(graph).unwrap();
                products.check();
                card.destroy_graph(graph).unwrap();
            }
            card.destroy_pool(loader.join().unwrap()).unwrap();
        });
        drop(products);
        card.destroy_pool(pool).unwrap();
    });
}

#[test]
fn memory_comes_back_from_threads_that_never_entered() {
    each(|card| {
        let pool = card.create_pool().unwrap();
        let buffer = Buffer::of(card, pool, &[7u8; 100]).unwrap();
        std::thread::spawn(move || drop(buffer)).join().unwrap();
        card.destroy_pool(pool).unwrap();
    });
}

#[test]
fn a_hundred_loads_and_unloads_leave_nothing() {
    each(|card| {
        let source = bytes(3 * MIB);
        let size = if card.properties().emulated { 8 * MIB } else { 64 * MIB };
        let cycle = || {
            let pool = card.create_pool().unwrap();
            let mut weights: Buffer<u8> = Buffer::on(card, pool, size, Stream::Load).unwrap();
            weights.write_on(MIB, &source, Stream::Load).unwrap();
            card.synchronise(Stream::Load).unwrap();
            let products = Products::new(card, pool, ScalarType::BF16, [32, 64, 2]);
            card.begin_capture().unwrap();
            products.run(card).unwrap();
            let graph = card.end_capture().unwrap();
            card.launch_graph(graph).unwrap();
            products.check();
            card.destroy_graph(graph).unwrap();
            drop((weights, products));
            card.trim_pool(pool).unwrap();
            assert_eq!(card.pool_usage(pool).unwrap(), Default::default());
            card.destroy_pool(pool).unwrap();
            card.memory().unwrap().free
        };
        let first = cycle();
        let all: Vec<u64> = (0..100).map(|_| cycle()).collect();
        let least = all.iter().min().copied().unwrap_or(0);
        let (start, end) = (all[0], all[99]);
        println!(
            "free memory: {first} after the first cycle, then {start}, least {least}, at last {end}"
        );
        assert!(least + (16 << 20) >= first);
        assert!(end + (1 << 20) >= start, "drift of {} bytes", start.abs_diff(end));
    });
}

#[test]
fn launches_that_no_card_takes_are_refused() {
    use serin_kernels::cuda::Grid;
    each(|card| {
        // SAFETY: there is no such kernel.
        let launch = |grid| unsafe { card.launch("absent", grid, &[]) };
        assert!(launch(Grid::line(1, 32)).is_err());
        assert!(launch(Grid::line(0, 32)).is_err());
        assert!(launch(Grid::line(1, 2048)).is_err());
        assert!(launch(Grid::line(1, 32).shared(MIB)).is_err());
        card.health().unwrap();
    });
}

#[test]
fn every_familys_answers_are_known() {
    each(|card| {
        // The emulated card is asked for all by each family's own tests, in several orders of threads.
        let size = if card.properties().emulated { Size::Quick } else { Size::Full };
        let pool = card.create_pool().unwrap();
        let bench = Bench { card: card.clone(), pool };
        for (name, family) in FAMILIES {
            let checks = family(&bench, size).unwrap();
            let wrong: Vec<String> =
                checks.iter().filter(|check| !check.holds()).map(ToString::to_string).collect();
            println!("{name}: {} cases", checks.len());
            assert!(!checks.is_empty() && wrong.is_empty(), "{}", wrong.join("\n"));
            card.synchronise(Stream::Compute).unwrap();
            card.synchronise(Stream::Load).unwrap();
            assert_eq!(card.pool_usage(pool).unwrap().used, 0, "{name} keeps memory");
        }
        card.destroy_pool(pool).unwrap();
    });
}

#[cfg(not(all(feature = "cuda", feature = "emulator")))]
mod stand_in {
    pub fn is_here() -> bool {
        false
    }
}

/// The real card's code over the stand-in.
#[cfg(all(feature = "cuda", feature = "emulator"))]
mod stand_in {
    use super::*;
    use serin_kernels::cuda::OpenError;
    use std::ffi::{CString, c_char, c_int, c_void};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    const HERE: &str = "SERIN_STAND_IN";
    /// `host/driver.cpp`, compiled with this program: it may run far from where it was built.
    static DRIVER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/driver.so"));

    /// A folder of this process's own, gone when it is dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            let name = format!("serin-stand-in-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    unsafe extern "C" {
        fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
        fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
        fn serin_emulator_launch();
        fn serin_emulator_memory(what: c_int, address: usize, bytes: usize);
    }

    type Tell = unsafe extern "C" fn(c_int, usize, usize);
    type Start = extern "C" fn(unsafe extern "C" fn(), Tell);
    type Is = extern "C" fn(c_int, c_int, c_int);
    type Fail = extern "C" fn(*const c_char, c_int);
    type Reset = extern "C" fn();
    type Left = extern "C" fn() -> usize;

    /// What can be asked of the stand-in itself.
    #[derive(Clone, Copy)]
    struct StandIn {
        start: Start,
        is: Is,
        fail: Fail,
        reset: Reset,
        left: Left,
    }

    /// The stand-in, in the process that has it.
    fn get() -> Option<StandIn> {
        let folder = std::env::var_os(HERE)?;
        let path = Path::new(&folder).join("libcuda.so");
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the library that the parent has built, whose functions are of these types.
        unsafe {
            let library = dlopen(path.as_ptr(), 2);
            assert!(!library.is_null());
            let get = |name: &str| {
                let name = CString::new(name).unwrap();
                let found = dlsym(library, name.as_ptr());
                assert!(!found.is_null(), "{name:?}");
                found
            };
            Some(StandIn {
                start: std::mem::transmute::<*mut c_void, Start>(get("stand_in_start")),
                is: std::mem::transmute::<*mut c_void, Is>(get("stand_in_is")),
                fail: std::mem::transmute::<*mut c_void, Fail>(get("stand_in_fail")),
                reset: std::mem::transmute::<*mut c_void, Reset>(get("stand_in_reset")),
                left: std::mem::transmute::<*mut c_void, Left>(get("stand_in_left")),
            })
        }
    }

    pub fn is_here() -> bool {
        std::env::var_os(HERE).is_some()
    }

    pub fn start() {
        if let Some(stand_in) = get() {
            (stand_in.start)(serin_emulator_launch, serin_emulator_memory);
        }
    }

    impl StandIn {
        fn fail(&self, call: &str, code: c_int) {
            let call = CString::new(call).unwrap();
            (self.fail)(call.as_ptr(), code);
        }
    }

    /// A test that only the stand-in's process runs.
    fn only(test: impl FnOnce(StandIn)) {
        let _alone = alone();
        if let Some(stand_in) = get() {
            start();
            test(stand_in);
            (stand_in.reset)();
            (stand_in.is)(13000, 1, 86);
        }
    }

    fn card() -> Arc<dyn Card> {
        serin_kernels::cuda::open("cuda").unwrap()
    }

    #[test]
    fn all_of_this_holds_over_the_stand_in() {
        if is_here() {
            return;
        }
        let folder = Folder::new();
        std::fs::write(folder.0.join("driver.so"), DRIVER).unwrap();
        for name in ["libcuda.so", "libcublas.so"] {
            std::os::unix::fs::symlink("driver.so", folder.0.join(name)).unwrap();
        }
        let ran = Command::new(std::env::current_exe().unwrap())
            .args(["--nocapture", "--test-threads=1"])
            .env("LD_LIBRARY_PATH", &folder.0)
            .env(HERE, &folder.0)
            .output()
            .unwrap();
        let said = [ran.stdout, ran.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        let said = said.concat();
        assert!(ran.status.success() && !said.contains("skipped"), "{said}");
        assert!(said.contains("on stand-in"), "{said}");
    }

    #[test]
    fn a_card_that_goes_leaves_nothing() {
        only(|stand_in| {
            let card = card();
            let pool = card.create_pool().unwrap();
            let buffer = Buffer::of(&card, pool, &bytes(9 * MIB)).unwrap();
            assert!(buffer.to_vec().unwrap() == bytes(9 * MIB));
            card.upload(buffer.view().address(), &bytes(MIB), Stream::Load).unwrap();
            card.begin_capture().unwrap();
            card.end_capture().unwrap();
            card.begin_capture().unwrap();
            drop(buffer);
            std::thread::spawn(move || drop(card)).join().unwrap();
            assert_eq!((stand_in.left)(), 0);
        });
    }

    #[test]
    fn a_card_that_does_not_open_leaves_nothing() {
        const CALLS: [&str; 12] = [
            "cuInit",
            "cuDevicePrimaryCtxRetain",
            "cuCtxSetCurrent",
            "cuCtxGetStreamPriorityRange",
            "cuStreamCreateWithPriority",
            "cuMemPoolCreate",
            "cuMemPoolSetAttribute",
            "cuMemAllocFromPoolAsync",
            "cublasCreate_v2",
            "cublasSetStream_v2",
            "cublasSetWorkspace_v2",
            "cuStreamSynchronize",
        ];
        only(|stand_in| {
            for call in CALLS {
                stand_in.fail(call, 1);
                let error = serin_kernels::cuda::open("cuda").map(drop).unwrap_err().to_string();
                assert!(!error.contains('\n'), "{call}: {error}");
                // The stand-in counts a retained context even where it says that it failed.
                let retained = usize::from(call == "cuDevicePrimaryCtxRetain");
                assert_eq!((stand_in.left)(), retained, "{call}: {error}");
                (stand_in.reset)();
            }
        });
    }

    #[test]
    fn cards_and_drivers_that_will_not_do_are_told_apart() {
        only(|stand_in| {
            let refused = || serin_kernels::cuda::open("cuda").map(drop).unwrap_err();
            (stand_in.is)(13000, 0, 86);
            assert_eq!(refused(), OpenError::NoCard { asked: 0, count: 0 });
            (stand_in.is)(11080, 1, 86);
            assert!(matches!(refused(), OpenError::OldDriver { .. }));
            (stand_in.is)(13000, 1, 75);
            assert!(matches!(refused(), OpenError::OldCard { .. }));
            (stand_in.is)(13000, 1, 86);
            let second = serin_kernels::cuda::open("cuda:1").map(drop);
            assert_eq!(second, Err(OpenError::NoCard { asked: 1, count: 1 }));
            stand_in.fail("cuInit", 34);
            assert!(refused().to_string().contains("stub"));
            drop(card());
        });
    }

    #[test]
    fn a_fault_that_nothing_survives_is_the_answer_to_everything() {
        only(|stand_in| {
            let card = card();
            let pool = card.create_pool().unwrap();
            let mut buffer = Buffer::of(&card, pool, &[1u8; 10]).unwrap();
            stand_in.fail("cuStreamSynchronize", 700);
            let dead = card.synchronise(Stream::Compute).unwrap_err();
            let said = dead.to_string();
            assert!(said.contains("CUDA_ERROR_ILLEGAL_ADDRESS, noticed at: waiting"), "{said}");
            assert_eq!(card.health(), Err(dead.clone()));
            assert_eq!(card.enter(), Err(dead.clone()));
            assert_eq!(card.memory(), Err(dead.clone()));
            assert_eq!(card.create_pool(), Err(dead.clone()));
            assert_eq!(card.pool_usage(pool), Err(dead.clone()));
            assert_eq!(card.trim_pool(pool), Err(dead.clone()));
            assert_eq!(card.destroy_pool(pool), Err(dead.clone()));
            assert_eq!(buffer.write(0, &[1]), Err(dead.clone()));
            assert_eq!(buffer.to_vec(), Err(dead.clone()));
            assert_eq!(buffer.fill(1), Err(dead.clone()));
            assert_eq!(card.begin_capture(), Err(dead.clone()));
            assert_eq!(card.end_capture(), Err(dead.clone()));
            // SAFETY: the card is not asked.
            let launched =
                unsafe { card.launch("any", serin_kernels::cuda::Grid::line(1, 32), &[]) };
            assert_eq!(launched, Err(dead));
            drop((buffer, card));
        });
    }

    #[test]
    fn a_fault_shows_at_the_next_question_after_it() {
        only(|_| {
            if FAMILIES.is_empty() {
                return;
            }
            let card = card();
            // SAFETY: the stand-in's emulator has no such kernel, and fails as a card does: later.
            let launched =
                unsafe { card.launch("nowhere", serin_kernels::cuda::Grid::line(1, 32), &[]) };
            assert_eq!(launched, Ok(()));
            assert_eq!(card.health(), Ok(()));
            let noticed = card.synchronise(Stream::Compute).unwrap_err();
            assert!(matches!(&noticed, CardError::Dead(why) if why.contains("LAUNCH_FAILED")));
            assert_eq!(card.health(), Err(noticed));
        });
    }

    #[test]
    fn a_copy_that_fails_fails_alone() {
        const CALLS: [&str; 5] = [
            "cuMemHostAlloc",
            "cuEventCreate",
            "cuMemcpyHtoDAsync_v2",
            "cuEventRecord",
            "cuEventSynchronize",
        ];
        only(|stand_in| {
            let source = bytes(10 * MIB);
            for call in CALLS {
                let card = card();
                let pool = card.create_pool().unwrap();
                let mut buffer: Buffer<u8> = Buffer::new(&card, pool, 10 * MIB).unwrap();
                stand_in.fail(call, 1);
                let failed = buffer.write(0, &source);
                assert!(matches!(failed, Err(CardError::Other(_))), "{call}: {failed:?}");
                buffer.write(0, &source).unwrap();
                assert!(buffer.to_vec().unwrap() == source, "{call}");
                drop(buffer);
                card.destroy_pool(pool).unwrap();
                drop(card);
                assert_eq!((stand_in.left)(), 0, "{call}");
            }
        });
    }

    #[test]
    fn memory_of_the_cards_and_of_this_machines_are_told_apart() {
        only(|stand_in| {
            let card = card();
            let pool = card.create_pool().unwrap();
            let buffer = Buffer::of(&card, pool, &[1u8; 8]).unwrap();
            stand_in.fail("cuMemHostAlloc", 2);
            let pinned = buffer.to_vec();
            assert!(matches!(pinned, Err(CardError::Other(_))), "{pinned:?}");
            stand_in.fail("cuStreamSynchronize", 1);
            assert!(buffer.to_vec().is_err());
            assert_eq!(buffer.to_vec().unwrap(), [1; 8]);
            stand_in.fail("cuMemAllocFromPoolAsync", 2);
            let refused = Buffer::<u8>::new(&card, pool, 12).map(drop);
            assert_eq!(refused, Err(CardError::OutOfMemory { bytes: 12 }));
        });
    }

    #[test]
    fn a_capture_that_fails_is_over_and_the_launches_still_run() {
        only(|stand_in| {
            let card = card();
            let pool = card.create_pool().unwrap();
            let products = Products::new(&card, pool, ScalarType::F32, [5, 64, 3]);
            let mut other = Buffer::of(&card, pool, &[1u8; 100]).unwrap();
            for call in ["cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cublasGemmEx"] {
                card.begin_capture().unwrap();
                assert!(card.begin_capture().is_err());
                stand_in.fail(call, 900);
                let ran = products.run(&card);
                assert!(other.write(0, &[2]).is_err() && other.read(0, &mut [0]).is_err());
                assert!(other.fill(3).is_err() && card.synchronise(Stream::Compute).is_err());
                other = Buffer::on(&card, pool, 100, Stream::Load).unwrap();
                let ended = card.end_capture().map(drop);
                assert!(ran.is_err() || ended.is_err(), "{call}");
                products.run(&card).unwrap();
                products.check();
                card.synchronise(Stream::Load).unwrap();
                other.write(0, &[2; 100]).unwrap();
                card.synchronise(Stream::Compute).unwrap();
            }
            drop((products, other));
            card.destroy_pool(pool).unwrap();
        });
    }

    #[test]
    fn more_shared_memory_is_asked_for_before_it_is_used() {
        use serin_kernels::cuda::Grid;
        only(|stand_in| {
            if FAMILIES.is_empty() {
                return;
            }
            let card = card();
            // SAFETY: nothing is run: nobody waits for it.
            let launch =
                |bytes| unsafe { card.launch("some", Grid::line(1, 32).shared(bytes), &[]) };
            launch(40 << 10).unwrap();
            stand_in.fail("cuFuncSetAttribute", 1);
            assert!(launch(64 << 10).is_err());
            launch(64 << 10).unwrap();
            launch(99 << 10).unwrap();
            launch(50 << 10).unwrap();
            assert!(matches!(launch(100 << 10), Err(CardError::Shape(_))));
            (stand_in.reset)();
        });
    }
}
