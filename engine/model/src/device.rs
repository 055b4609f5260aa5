//! Where a model runs.

pub use querywright_kernels::device::DeviceInfo;

use querywright_kernels::device::Device;
use querywright_types::{Error, Result};

/// Where a model runs, as the user writes it: `auto`, `cpu`, or `cuda:0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DeviceChoice {
    /// The first GPU where this program and this machine can use one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// This GPU.
    Cuda(usize),
}

impl DeviceChoice {
    /// Whether it comes to a GPU that this program and this machine can use.
    pub fn is_gpu(self) -> bool {
        let ordinal = match self {
            Self::Cpu => return false,
            Self::Cuda(ordinal) => ordinal,
            Self::Auto => 0,
        };
        Device::open(ordinal).is_ok()
    }
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ordinal = || text.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or(rest));
        let choice = match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            _ => match ordinal() {
                Some("") => Some(Self::Cuda(0)),
                Some(ordinal) => ordinal.parse::<u16>().ok().map(|ordinal| Self::Cuda(ordinal.into())),
                None => None,
            },
        };
        choice.ok_or_else(|| Error::argument("device", format!("found \"{text}\""), "give auto, cpu, or cuda:0"))
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl serde::Serialize for DeviceChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for DeviceChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        let table = [
            ("auto", DeviceChoice::Auto, "auto"),
            ("cpu", DeviceChoice::Cpu, "cpu"),
            ("cuda", DeviceChoice::Cuda(0), "cuda:0"),
            ("cuda:", DeviceChoice::Cuda(0), "cuda:0"),
            ("cuda:3", DeviceChoice::Cuda(3), "cuda:3"),
            ("cuda:65535", DeviceChoice::Cuda(65535), "cuda:65535"),
        ];
        for (text, choice, shown) in table {
            assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice, "{text} is parsed");
            assert_eq!(choice.to_string(), shown, "{text} is shown");
            assert_eq!(shown.parse::<DeviceChoice>().unwrap(), choice, "{shown} is parsed again");
        }
        for text in ["", "gpu", "CUDA", "cuda:x", "cuda:-1", "cuda:65536"] {
            let error = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(error.contains(&format!("found \"{text}\"")), "the error names {text:?}: {error}");
            assert!(error.contains("auto, cpu, or cuda:0"), "the error says what would be right: {error}");
        }
    }
}
