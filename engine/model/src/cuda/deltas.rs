//! Low-rank deltas in the blocks' weights.

use super::workspace::Workspace;
use super::{CudaDecoder, Group, Part, State};
use crate::adapter::{BlockDeltas, Deltas};
use querywright_kernels::LoraDelta;
use querywright_kernels::device::{Format, Matrix, View};
use querywright_types::Result;

/// Whether there are deltas in the same places, and `same` says so of each.
fn agree(a: &Deltas, b: &Deltas, same: impl Fn(&LoraDelta, &LoraDelta) -> bool) -> bool {
    let alike = |(a, b): (&Option<LoraDelta>, &Option<LoraDelta>)| match (a, b) {
        (Some(a), Some(b)) => same(a, b),
        (None, None) => true,
        _ => false,
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.iter().zip(b).all(alike))
}

impl CudaDecoder {
    /// Writes the factors of these deltas into the blocks' weights, unless they are there.
    pub(super) fn place(&self, state: &mut State, deltas: &Deltas) -> Result<()> {
        if state.placed.as_ref().is_some_and(|placed| agree(placed, deltas, LoraDelta::is)) {
            return Ok(());
        }
        // Half of them may be there when something fails.
        state.placed = None;
        let State { blocks, workspace, .. } = state;
        if let Some(workspace) = workspace {
            workspace.forget_prefix();
        }
        for (index, block) in blocks.iter_mut().enumerate() {
            for group in &mut block.groups {
                self.place_group(group, deltas.get(index), workspace)?;
            }
        }
        state.placed = Some(deltas.to_vec());
        Ok(())
    }

    /// Writes the factors of deltas that the optimiser has on the device. `values` are those of all, one behind the other in
    /// the order of [`Adapter::parameters`](crate::Adapter::parameters), in single precision. Where deltas of
    /// another shape are in the blocks, nothing is written: the next pass takes these from the host.
    pub(super) fn place_resident(&self, deltas: &Deltas, values: View<'_>) -> Result<()> {
        let alike = |a: &LoraDelta, b: &LoraDelta| a.rank() == b.rank() && a.scale() == b.scale();
        let mut state = self.lock();
        let State { blocks, placed, workspace } = &mut *state;
        if !placed.as_ref().is_some_and(|placed| agree(placed, deltas, alike)) {
            return Ok(());
        }
        // Half of them may be there when something fails.
        *placed = None;
        if let Some(workspace) = workspace {
            workspace.forget_prefix();
        }
        let mut rest = values;
        let mut next = |rows: usize, columns: usize| {
            let own = Matrix::new(rest, Format::F32, rows, columns);
            rest = rest.from(4 * rows * columns);
            own
        };
        for group in blocks.iter().flat_map(|block| &block.groups) {
            let Some(low) = &group.low else { continue };
            for part in &group.parts {
                let Some((from, rank)) = part.low else { continue };
                let place = low.view().from(from * group.input * self.format.bytes());
                let a = Matrix::new(place, self.format, rank, group.input);
                self.device.place(next(rank, group.input), a, 1.0)?;
                let b = group.weight(self.format).columns(group.input + from, rank).rows(part.column, part.output);
                self.device.place(next(part.output, rank), b, part.scale)?;
            }
        }
        *placed = Some(deltas.to_vec());
        Ok(())
    }

    /// Writes the factors of a group's deltas; where they need more room, the weights move.
    fn place_group(
        &self,
        group: &mut Group,
        deltas: Option<&BlockDeltas>,
        workspace: &mut Option<Workspace>,
    ) -> Result<()> {
        let delta = |part: &Part| deltas.and_then(|d| d[part.projection as usize].as_ref());
        let mut needed = 0;
        for part in &mut group.parts {
            part.low = delta(part).map(|d| (needed, d.rank()));
            part.scale = delta(part).map_or(0.0, LoraDelta::scale);
            // Tensor cores need columns in multiples of eight.
            needed += delta(part).map_or(0, |d| d.rank().next_multiple_of(8));
        }
        let (input, output) = (group.input, group.output);
        if needed > group.room {
            let low = self.device.allocate(needed * input * self.format.bytes())?;
            let weight = self.device.allocate(output * (input + needed) * self.format.bytes())?;
            let to = Matrix::new(weight.view(), self.format, output, input + needed).columns(0, input);
            self.device.move_rows(group.weight(self.format).columns(0, input), to)?;
            // Captured graphs know where the weights were: they go before the weights do.
            *workspace = None;
            (group.weight, group.low, group.room) = (weight, Some(low), needed);
        }
        let (Some(low), room) = (&group.low, group.room) else { return Ok(()) };
        let mut a = vec![0f32; room * input];
        let mut b = vec![0f32; output * room];
        for part in &group.parts {
            let (Some(delta), Some((from, rank))) = (delta(part), part.low) else { continue };
            let (factor_a, factor_b) = delta.factors();
            a[from * input..(from + rank) * input].copy_from_slice(factor_a);
            for (row, values) in factor_b.chunks_exact(rank).enumerate() {
                let to = (part.column + row) * room + from;
                b[to..to + rank].copy_from_slice(values);
                b[to..to + rank].iter_mut().for_each(|v| *v *= part.scale);
            }
        }
        let put = |values: &[f32], to: Matrix<'_>| {
            let from = self.device.upload(values)?;
            self.device.place(Matrix::new(from.view(), Format::F32, to.rows, to.columns), to, 1.0)
        };
        put(&a, Matrix::new(low.view(), self.format, room, input))?;
        put(&b, group.weight(self.format).columns(input, room))
    }
}
