//! Allocating a device's memory, and copying to, from and within it.

use super::driver::Pinned;
use super::handle::Device;
use super::pool::{Buffer, Plain, Pool, View, bytes_of, bytes_of_mut};
use querywright_types::{Error, Result};

/// Words of 32 bits that a device copies to the host by itself, while the host goes on.
pub struct Mailbox(Pinned);

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailbox")
    }
}

impl Device {
    /// Bytes that can still be allocated: what is free on the device, and what the pool keeps for reuse.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn available(&self) -> Result<usize> {
        Ok(self.driver().info()?.free + self.pool().kept())
    }

    /// A buffer of so many bytes with undefined contents.
    ///
    /// # Errors
    /// Too little memory: how much was asked for, how much there is, and what to lower.
    pub fn allocate(&self, bytes: usize) -> Result<Buffer> {
        let size = Pool::size(bytes);
        let address = match self.pool().take(size) {
            Some(address) => Some(address),
            None => match self.driver().allocate(size)? {
                Some(address) => Some(address),
                None => {
                    self.pool().release();
                    self.driver().allocate(size)?
                }
            },
        };
        let Some(address) = address else {
            let info = self.driver().info()?;
            let mib = |bytes: usize| bytes.div_ceil(1 << 20);
            return Err(Error::device(
                self.name(),
                format!(
                    "out of memory: {} MiB asked for, {} of {} MiB are free",
                    mib(size),
                    mib(info.free),
                    mib(info.total)
                ),
                "free the device, take a smaller model or --device cpu; in training lower train.micro_batch_tokens, \
                 train.num_generations or sampling.max_completion_length",
            ));
        };
        Ok(Buffer::new(self.pool().clone(), address, bytes))
    }

    /// A buffer of zeros.
    ///
    /// # Errors
    /// Those of [`allocate`](Self::allocate).
    pub fn zeros(&self, bytes: usize) -> Result<Buffer> {
        let buffer = self.allocate(bytes)?;
        self.clear(buffer.view())?;
        Ok(buffer)
    }

    /// A buffer with these values.
    ///
    /// # Errors
    /// Those of [`allocate`](Self::allocate).
    pub fn upload<T: Plain>(&self, values: &[T]) -> Result<Buffer> {
        let buffer = self.allocate(std::mem::size_of_val(values))?;
        self.write(buffer.view(), values)?;
        Ok(buffer)
    }

    /// Writes values to the beginning of a view.
    ///
    /// # Errors
    /// A view that is too small.
    pub fn write<T: Plain>(&self, to: View<'_>, values: &[T]) -> Result<()> {
        self.need("a copy", to, std::mem::size_of_val(values))?;
        if values.is_empty() {
            return Ok(());
        }
        self.driver().copy_in(to.address, bytes_of(values))
    }

    /// Reads values from the beginning of a view; waits for everything that was launched.
    ///
    /// # Errors
    /// A view that is too small, or what failed before.
    pub fn read<T: Plain>(&self, from: View<'_>, to: &mut [T]) -> Result<()> {
        self.need("a copy", from, std::mem::size_of_val(to))?;
        if to.is_empty() {
            return Ok(());
        }
        self.driver().copy_out(bytes_of_mut(to), from.address)
    }

    /// A mailbox for so many words.
    ///
    /// # Errors
    /// Too little host memory.
    pub fn mailbox(&self, words: usize) -> Result<Mailbox> {
        Ok(Mailbox(self.driver().pinned(4 * words)?))
    }

    /// Has the first `words` words of a view copied to a mailbox, behind everything that was launched so far.
    ///
    /// # Errors
    /// A view or a mailbox that is too small.
    pub fn post(&self, from: View<'_>, words: usize, to: &mut Mailbox) -> Result<()> {
        self.need("a copy", from, 4 * words)?;
        self.driver().post(&mut to.0, from.address, 4 * words)
    }

    /// Waits for what was last posted to a mailbox, and no longer.
    ///
    /// # Errors
    /// What failed before.
    pub fn receive(&self, from: &Mailbox, words: usize) -> Result<Vec<u32>> {
        let bytes = self.driver().wait(&from.0)?;
        let (all, _) = bytes.as_chunks::<4>();
        Ok(all.iter().take(words).map(|word| u32::from_ne_bytes(*word)).collect())
    }

    /// Copies the first bytes of a view to another.
    ///
    /// # Errors
    /// A view that is too small.
    pub fn copy(&self, to: View<'_>, from: View<'_>, bytes: usize) -> Result<()> {
        self.need("a copy", to, bytes)?;
        self.need("a copy", from, bytes)?;
        if bytes == 0 || to.address == from.address {
            return Ok(());
        }
        self.driver().copy(to.address, from.address, bytes)
    }

    /// Sets a view to zeros.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn clear(&self, view: View<'_>) -> Result<()> {
        if view.bytes == 0 {
            return Ok(());
        }
        self.driver().clear(view.address, view.bytes)
    }

    /// Refuses an operand that is too small for an operation: what stands between a wrong size and a device that writes
    /// where it should not.
    pub(super) fn need(&self, operation: &'static str, view: View<'_>, bytes: usize) -> Result<()> {
        if view.bytes >= bytes {
            return Ok(());
        }
        Err(Error::bug(operation, format!("an operand of {} bytes on {}, {bytes} needed", view.bytes, self.name())))
    }
}
