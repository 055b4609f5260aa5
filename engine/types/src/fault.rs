//! Failures of a retriever.

/// A failure of a retriever: its index, the network, a plugin. It is retried, then the sample is dropped and counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{retriever}: {kind}: {detail}")]
#[non_exhaustive]
pub struct Fault {
    /// Which retriever.
    pub retriever: String,
    /// What sort of failure.
    pub kind: FaultKind,
    /// The retriever's own words.
    pub detail: String,
}

impl Fault {
    /// A failure of the retriever of this name.
    pub fn new(retriever: impl Into<String>, kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { retriever: retriever.into(), kind, detail: detail.into() }
    }
}

/// The sorts of a retriever's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// No answer in time.
    Timeout,
    /// The other side could not be reached or broke off.
    Network,
    /// The answer could not be read.
    Parse,
    /// The answer breaks the contract of [`Retriever`](crate::Retriever): too many hits, an unknown document, a score
    /// that is not a number.
    Contract,
    /// A plugin trapped or exceeded a limit.
    Trap,
    /// A plugin said that it cannot answer.
    Refused,
    /// It failed too often in a row and is not asked for a while.
    Resting,
    /// The index itself failed.
    Index,
    /// More was asked at once than may wait.
    Overloaded,
}

impl FaultKind {
    /// A short word for programs, metrics and logs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Network => "network",
            Self::Parse => "parse",
            Self::Contract => "contract",
            Self::Trap => "trap",
            Self::Refused => "refused",
            Self::Resting => "resting",
            Self::Index => "index",
            Self::Overloaded => "overloaded",
        }
    }

    /// A fixed sentence for what happened, which quotes nobody: what somebody outside may read.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Timeout => "the retriever gave no answer in time",
            Self::Network => "the retriever could not be reached",
            Self::Parse => "the retriever's answer could not be read",
            Self::Contract => "the retriever's answer broke its contract",
            Self::Trap => "the retriever broke off",
            Self::Refused => "the retriever refused the request",
            Self::Resting => "the retriever failed too often and rests",
            Self::Index => "the index failed",
            Self::Overloaded => "the retriever has more to do than may wait",
        }
    }
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Timeout => "timed out",
            Self::Network => "network failure",
            Self::Parse => "unreadable answer",
            Self::Contract => "broken contract",
            Self::Trap => "plugin trap",
            Self::Refused => "refused",
            Self::Resting => "resting",
            Self::Index => "index failure",
            Self::Overloaded => "overloaded",
        })
    }
}
