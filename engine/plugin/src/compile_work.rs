//! How long a function may take to compile at worst, estimated from its instructions.
//!
//! Compiling is not linear in the size of a function. A component of some kilobytes can keep Cranelift busy for minutes,
//! because a branch costs as much as there are locals, a loop with parameters as much as there are parameters, and a
//! loop, whose check of the clock is a call out of line, as much as there are loops. So the estimate counts what makes
//! such functions slow:
//!
//! ```text
//! µs = 250 + 5 bytes + locals / 2 + 10 locals Σ_branches (1 + loops around it / 4) + 30 branches
//!    + 20 values of calls + 400 values of blocks + (calls out of line)² / 5
//! ```
//!
//! The coefficients were measured with Cranelift 0.135 on one core, over hand-written functions that grow one term each:
//! the estimate is above the time of all of them, and of ordinary code by a factor of three. `tests/forged/compiling.rs`
//! compiles the worst that is accepted.

use wasmparser::{BinaryReaderError, BlockType, FunctionBody, Operator};

/// What the estimate of one function is made of.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FunctionWork {
    bytes: u64,
    /// Parameters and locals.
    pub(super) locals: u64,
    /// Blocks and branches.
    pub(super) branches: u64,
    /// The same, and each once more for four loops around it.
    nested_branches: u64,
    /// Parameters and results of calls, and one for each.
    call_values: u64,
    /// Parameters and results of blocks that have several.
    block_values: u64,
    /// Instructions that call the host out of line: loops, and what works on tables and memories as a whole.
    calls_out_of_line: u64,
}

/// The function types of a module: the number of parameters and results of each, and the type of each function.
#[derive(Debug, Default)]
pub(super) struct Signatures {
    /// Parameters and results, by type.
    pub(super) types: Vec<(u64, u64)>,
    /// The type of each function, imported ones first.
    pub(super) functions: Vec<u32>,
}

impl Signatures {
    fn values(&self, ty: u32) -> u64 {
        self.types.get(ty as usize).map_or(0, |(parameters, results)| parameters + results)
    }

    fn values_of_function(&self, function: u32) -> u64 {
        self.functions.get(function as usize).map_or(0, |ty| self.values(*ty))
    }

    fn parameters_of_function(&self, function: usize) -> u64 {
        let ty = self.functions.get(function).and_then(|ty| self.types.get(*ty as usize));
        ty.map_or(0, |(parameters, _)| *parameters)
    }
}

/// Microseconds that a signature takes: functions of the host and of the component call each other through a function
/// that is compiled for it.
pub(super) fn of_signature(parameters: u64, results: u64) -> u64 {
    500 + 20 * (parameters + results)
}

impl FunctionWork {
    /// Reads the function of this index.
    ///
    /// # Errors
    /// If its code cannot be read.
    pub(super) fn of(
        body: &FunctionBody<'_>,
        function: usize,
        signatures: &Signatures,
    ) -> Result<Self, BinaryReaderError> {
        let mut work = Self {
            bytes: body.range().len() as u64,
            locals: signatures.parameters_of_function(function),
            call_values: signatures.values_of_function(u32::try_from(function).unwrap_or(u32::MAX)),
            ..Self::default()
        };
        for local in body.get_locals_reader()? {
            work.locals += u64::from(local?.0);
        }
        // Whether each block around the current instruction is a loop.
        let (mut around, mut loops) = (Vec::new(), 0u64);
        for operator in body.get_operators_reader()? {
            let operator = operator?;
            if let Some((ty, is_loop)) = opened(&operator) {
                work.block(ty, signatures);
                around.push(is_loop);
                loops += u64::from(is_loop);
            } else if matches!(operator, Operator::End) && around.pop() == Some(true) {
                loops -= 1;
            }
            let branches = branches(&operator);
            work.branches += branches;
            work.nested_branches += branches * (4 + loops) / 4;
            work.calls_out_of_line += u64::from(calls_out_of_line(&operator));
            work.call_values += match operator {
                Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                    1 + signatures.values_of_function(function_index)
                }
                Operator::CallIndirect { type_index, .. } | Operator::ReturnCallIndirect { type_index, .. } => {
                    1 + signatures.values(type_index)
                }
                Operator::CallRef { type_index } | Operator::ReturnCallRef { type_index } => {
                    1 + signatures.values(type_index)
                }
                _ => 0,
            };
        }
        Ok(work)
    }

    fn block(&mut self, ty: BlockType, signatures: &Signatures) {
        if let BlockType::FuncType(ty) = ty {
            self.block_values += signatures.values(ty);
        }
    }

    /// Microseconds that it may take to compile.
    pub(super) fn microseconds(&self) -> u64 {
        [
            250,
            self.bytes.saturating_mul(5),
            self.locals / 2,
            self.locals.saturating_mul(self.nested_branches).saturating_mul(10),
            self.branches.saturating_mul(30),
            self.call_values.saturating_mul(20),
            self.block_values.saturating_mul(400),
            self.calls_out_of_line.saturating_mul(self.calls_out_of_line) / 5,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// The type of the block that an instruction opens, and whether it is a loop.
fn opened(operator: &Operator<'_>) -> Option<(BlockType, bool)> {
    match operator {
        Operator::Loop { blockty } => Some((*blockty, true)),
        Operator::Block { blockty } | Operator::If { blockty } => Some((*blockty, false)),
        Operator::TryTable { try_table } => Some((try_table.ty, false)),
        _ => None,
    }
}

/// How many blocks an instruction ends or begins. A jump table counts its targets, since each may be another block.
fn branches(operator: &Operator<'_>) -> u64 {
    match operator {
        Operator::BrTable { targets } => 1 + u64::from(targets.len()) / 4,
        Operator::TryTable { try_table } => 1 + try_table.catches.len() as u64,
        Operator::Block { .. }
        | Operator::Loop { .. }
        | Operator::If { .. }
        | Operator::Else
        | Operator::Br { .. }
        | Operator::BrIf { .. }
        | Operator::BrOnNull { .. }
        | Operator::BrOnNonNull { .. }
        | Operator::Return => 1,
        _ => 0,
    }
}

/// Whether an instruction calls the host, or may call it, in a block out of line.
fn calls_out_of_line(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::Loop { .. }
            | Operator::CallIndirect { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::ReturnCallRef { .. }
            | Operator::TryTable { .. }
            | Operator::Throw { .. }
            | Operator::ThrowRef
            | Operator::RefFunc { .. }
            | Operator::TableGet { .. }
            | Operator::TableSet { .. }
            | Operator::TableGrow { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. }
            | Operator::TableInit { .. }
            | Operator::ElemDrop { .. }
            | Operator::MemoryGrow { .. }
            | Operator::MemoryFill { .. }
            | Operator::MemoryCopy { .. }
            | Operator::MemoryInit { .. }
            | Operator::DataDrop { .. }
    )
}
