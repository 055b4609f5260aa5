//! What a call to the host costs in fuel.

use wasmtime::{StoreContextMut, Trap};

use super::state::State;

/// Fuel of a call to the host, beside one for each byte that it moves.
const FUEL_PER_HOST_CALL: u64 = 200;

/// Takes the fuel of a call to the host that moves this many bytes. By the clock it takes none.
///
/// # Errors
/// [`Trap::OutOfFuel`] if there is less.
pub(super) fn charge(store: &mut StoreContextMut<'_, State>, bytes: usize) -> wasmtime::Result<()> {
    let Ok(left) = store.get_fuel() else { return Ok(()) };
    match left.checked_sub(FUEL_PER_HOST_CALL.saturating_add(bytes as u64)) {
        Some(left) => store.set_fuel(left),
        None => {
            store.set_fuel(0)?;
            Err(Trap::OutOfFuel.into())
        }
    }
}
