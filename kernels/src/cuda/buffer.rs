//! GPU memory as Rust values: a buffer is freed when it is dropped, and a view knows its length.
//!
//! A view has an element type, so a kernel's function can check lengths, and no caller counts bytes. The contents of a
//! buffer are undefined until something is written to it.

use super::card::{Arg, Card, CardError, HostMemory, Pool, Stream};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Numbers that mean the same on the card and here.
///
/// # Safety
/// Any bits are a value, and there is no padding.
pub unsafe trait Plain: Copy + Default + 'static {}

macro_rules! plain {
    ($($number:ty),*) => {$(
        // SAFETY: a plain number.
        unsafe impl Plain for $number {}
    )*};
}

plain!(u8, i8, u16, u32, i32, u64, f32, half::f16, half::bf16);

/// `len` numbers on a card, in a pool.
pub struct Buffer<T: Plain> {
    card: Arc<dyn Card>,
    address: u64,
    len: usize,
    /// Stream that it is given back on.
    stream: Stream,
    kind: PhantomData<T>,
}

/// Numbers of a buffer, to be read.
#[derive(Debug)]
pub struct View<'a, T: Plain> {
    address: u64,
    len: usize,
    life: PhantomData<&'a T>,
}

/// Numbers of a buffer, to be written.
#[derive(Debug)]
pub struct ViewMut<'a, T: Plain> {
    address: u64,
    len: usize,
    life: PhantomData<&'a mut T>,
}

impl<T: Plain> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Plain> Copy for View<'_, T> {}

impl<T: Plain> Buffer<T> {
    /// Takes `len` numbers from `pool`; an empty buffer takes nothing. Fails if the pool's memory is used up or the
    /// device fails.
    pub fn new(card: &Arc<dyn Card>, pool: Pool, len: usize) -> Result<Buffer<T>, CardError> {
        Buffer::on(card, pool, len, Stream::Compute)
    }

    /// As [`Buffer::new`], allocated and given back in the order of `stream`. Whoever uses it on the other one
    /// waits for that before it is dropped. Fails as [`Buffer::new`] does.
    pub fn on(
        card: &Arc<dyn Card>,
        pool: Pool,
        len: usize,
        stream: Stream,
    ) -> Result<Buffer<T>, CardError> {
        let bytes =
            len.checked_mul(size_of::<T>()).ok_or(CardError::OutOfMemory { bytes: usize::MAX })?;
        let address = if bytes == 0 { 0 } else { card.allocate(pool, bytes, stream)? };
        Ok(Buffer { card: card.clone(), address, len, stream, kind: PhantomData })
    }

    /// A buffer that holds `values`. Fails as [`Buffer::new`] and [`Buffer::write`] do.
    pub fn of(card: &Arc<dyn Card>, pool: Pool, values: &[T]) -> Result<Buffer<T>, CardError> {
        let mut buffer = Buffer::new(card, pool, values.len())?;
        buffer.write(0, values)?;
        Ok(buffer)
    }

    /// Number of values, not of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty, and so has no memory.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The card that it lies on.
    pub fn card(&self) -> &Arc<dyn Card> {
        &self.card
    }

    /// Copies `values` to the buffer from number `at` on, in the order of [`Stream::Compute`]. Fails if they do not fit
    /// into the buffer or the device fails.
    pub fn write(&mut self, at: usize, values: &[T]) -> Result<(), CardError> {
        self.write_on(at, values, Stream::Compute)
    }

    /// As [`Buffer::write`], in the order of `stream`. Fails as it does.
    pub fn write_on(&mut self, at: usize, values: &[T], stream: Stream) -> Result<(), CardError> {
        let end = at.checked_add(values.len());
        if end.is_none_or(|end| end > self.len) {
            let what = format!("{} values at {at} do not fit into {}", values.len(), self.len);
            return Err(CardError::Shape(what));
        }
        if values.is_empty() {
            return Ok(());
        }
        self.card.upload(self.address + (at * size_of::<T>()) as u64, bytes_of(values), stream)
    }

    /// Copies `out.len()` numbers, from number `at` on, and waits for them. Fails if the buffer ends before or the
    /// device fails.
    pub fn read(&self, at: usize, out: &mut [T]) -> Result<(), CardError> {
        if at.checked_add(out.len()).is_none_or(|end| end > self.len) {
            let what = format!("{} values at {at} are not in {}", out.len(), self.len);
            return Err(CardError::Shape(what));
        }
        if out.is_empty() {
            return Ok(());
        }
        let from = self.address + (at * size_of::<T>()) as u64;
        self.card.download(from, bytes_of_mut(out), Stream::Compute)
    }

    /// Copies another buffer's numbers, as many as this one has. Fails if the other buffer is shorter or the device
    /// fails.
    pub fn copy_from(&mut self, other: &Buffer<T>) -> Result<(), CardError> {
        if other.len < self.len {
            let what = format!("{} values are not in {}", self.len, other.len);
            return Err(CardError::Shape(what));
        }
        match self.len * size_of::<T>() {
            0 => Ok(()),
            bytes => self.card.copy(other.address, self.address, bytes, Stream::Compute),
        }
    }

    /// All numbers, waited for. Fails if the device fails.
    pub fn to_vec(&self) -> Result<Vec<T>, CardError> {
        let mut out = vec![T::default(); self.len];
        self.read(0, &mut out)?;
        Ok(out)
    }

    /// Sets every byte to `byte`, in the order of [`Stream::Compute`]. Fails if the device fails.
    pub fn fill(&mut self, byte: u8) -> Result<(), CardError> {
        match self.len * size_of::<T>() {
            0 => Ok(()),
            bytes => self.card.fill(self.address, byte, bytes, Stream::Compute),
        }
    }

    /// All its numbers, to be read.
    pub fn view(&self) -> View<'_, T> {
        View { address: self.address, len: self.len, life: PhantomData }
    }

    /// All its numbers, to be written.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut { address: self.address, len: self.len, life: PhantomData }
    }

    /// The first `len` numbers. Panics if there are fewer.
    pub fn first(&self, len: usize) -> View<'_, T> {
        self.view().part(0, len)
    }

    /// As [`Buffer::first`], to be written.
    pub fn first_mut(&mut self, len: usize) -> ViewMut<'_, T> {
        self.view_mut().part(0, len)
    }
}

impl<T: Plain> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} values)", self.len)
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.address != 0 {
            // A card that is dead keeps its memory; whoever unloads compares the pool's figures.
            let _ = self.card.free(self.address, self.stream);
        }
    }
}

impl<T: Plain> View<'_, T> {
    /// A null pointer, for optional inputs.
    pub fn none() -> Self {
        View { address: 0, len: 0, life: PhantomData }
    }
}

/// What both kinds of views can do.
macro_rules! views {
    ($($View:ident)*) => {$(
        impl<'a, T: Plain> $View<'a, T> {
            /// Number of values, not of bytes.
            pub fn len(&self) -> usize {
                self.len
            }

            /// Whether it is empty, as [`View::none`].
            pub fn is_empty(&self) -> bool {
                self.len == 0
            }

            /// The same bytes as other numbers, as many as are whole.
            pub(crate) fn cast<U: Plain>(self) -> $View<'a, U> {
                let len = self.len * size_of::<T>() / size_of::<U>();
                $View { address: self.address, len, life: PhantomData }
            }

            /// Numbers `at .. at + len`. Panics if they are not there.
            pub fn part(self, at: usize, len: usize) -> Self {
                assert!(at + len <= self.len, "{len} values at {at} are not in {}", self.len);
                let address = self.address + (at * size_of::<T>()) as u64;
                $View { address, len, life: PhantomData }
            }

            /// Address of the first number on the card; 0 for a null pointer.
            pub fn address(&self) -> u64 {
                self.address
            }

            /// Its address, as an argument of a kernel.
            pub fn arg(&self) -> Arg {
                Arg::Address(self.address)
            }
        }
    )*};
}

views!(View ViewMut);

impl<T: Plain> ViewMut<'_, T> {
    /// The same numbers for a shorter while.
    pub fn again(&mut self) -> ViewMut<'_, T> {
        ViewMut { address: self.address, len: self.len, life: PhantomData }
    }

    /// The same numbers, to be read.
    pub fn as_view(&self) -> View<'_, T> {
        View { address: self.address, len: self.len, life: PhantomData }
    }
}

/// `len` numbers in the host's memory that kernels read and write where they lie ([`Card::map_host`]); zeros at first.
pub struct Mapped<T: Plain> {
    card: Arc<dyn Card>,
    memory: HostMemory,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Plain> Mapped<T> {
    /// Pins memory for `len` numbers. `Err(Shape)` if `len` is 0 or its bytes overflow; otherwise fails as
    /// [`Card::map_host`] does.
    pub fn new(card: &Arc<dyn Card>, len: usize) -> Result<Mapped<T>, CardError> {
        let bytes = len.checked_mul(size_of::<T>()).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or_else(|| CardError::Shape(format!("{len} values to be mapped")))?;
        Ok(Mapped { card: card.clone(), memory: card.map_host(bytes)?, len, kind: PhantomData })
    }

    /// Writes values, of this type or another, from number `at` (of type `T`) on. Kernels that were launched before and
    /// are not done may see either. Fails if the values do not fit.
    pub fn write<U: Plain>(&mut self, at: usize, values: &[U]) -> Result<(), CardError> {
        let (size, bytes) = (size_of::<T>(), size_of_val(values));
        let end = at.checked_mul(size).and_then(|start| start.checked_add(bytes));
        if end.is_none_or(|end| end > self.len * size) {
            let what = format!("{bytes} bytes at {at} do not fit into {} values", self.len);
            return Err(CardError::Shape(what));
        }
        let to = (self.memory.host as *mut T).wrapping_add(at).cast::<u8>();
        // SAFETY: `len` numbers lie there until `drop`, and nothing else of the host's refers to them.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast(), to, bytes) };
        Ok(())
    }

    /// Reads `to.len()` numbers from number `at` on. Those that kernels write are there once the kernels have been
    /// waited for. Fails if the memory ends before.
    pub fn read(&self, at: usize, to: &mut [T]) -> Result<(), CardError> {
        let end = at.checked_add(to.len());
        if end.is_none_or(|end| end > self.len) {
            let what = format!("{} values at {at} of {}", to.len(), self.len);
            return Err(CardError::Shape(what));
        }
        let from = (self.memory.host as *const T).wrapping_add(at);
        for (i, value) in to.iter_mut().enumerate() {
            // SAFETY: `len` numbers lie there until `drop`; any bits are one, whoever else writes them.
            *value = unsafe { from.wrapping_add(i).read_volatile() };
        }
        Ok(())
    }

    /// All its numbers, at the address where kernels find them.
    pub fn view(&self) -> View<'_, T> {
        View { address: self.memory.card, len: self.len, life: PhantomData }
    }

    /// As [`Mapped::view`], for kernels that write.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut { address: self.memory.card, len: self.len, life: PhantomData }
    }
}

impl<T: Plain> Drop for Mapped<T> {
    fn drop(&mut self) {
        // As for a buffer.
        let _ = self.card.unmap_host(self.memory);
    }
}

/// The bytes of plain numbers.
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` numbers have no padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// As [`bytes_of`], to be written.
pub fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: `Plain` numbers have no padding and may hold any bits.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
