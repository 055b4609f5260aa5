//! What work costs: seconds, memory, energy, tokens, and money by the user's own prices.
//!
//! Nothing is estimated. What the system does not tell is absent and the reason is given; a price that nobody gave is no
//! price, so that no figure rests on a default of ours.

mod energy;

use std::time::Instant;

use serde::{Deserialize, Serialize};

use self::energy::Energy;
use querywright_types::{Error, Result};

/// What the user pays. All prices in one currency; what is absent costs nothing and is not counted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CostConfig {
    /// The currency's name, for tables: "USD". Needed with a price.
    pub currency: Option<String>,
    /// An hour of the machine where the model runs on the processor.
    pub cpu_hour: Option<f64>,
    /// An hour of the machine where the model runs on a GPU, the machine around it included.
    pub gpu_hour: Option<f64>,
    /// A million tokens of prompts.
    pub million_prompt_tokens: Option<f64>,
    /// A million tokens of completions.
    pub million_completion_tokens: Option<f64>,
    /// A kilowatt-hour, of the energy that was measured.
    pub kilowatt_hour: Option<f64>,
}

impl CostConfig {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn all(&self) -> [(&'static str, Option<f64>); 5] {
        [
            ("cost.cpu_hour", self.cpu_hour),
            ("cost.gpu_hour", self.gpu_hour),
            ("cost.million_prompt_tokens", self.million_prompt_tokens),
            ("cost.million_completion_tokens", self.million_completion_tokens),
            ("cost.kilowatt_hour", self.kilowatt_hour),
        ]
    }

    /// Refuses prices that are none.
    ///
    /// # Errors
    /// [`Error::Argument`] that names the key.
    pub fn validate(&self) -> Result<()> {
        let given = || self.all().into_iter().filter_map(|(key, price)| Some((key, price?)));
        if let Some((key, price)) = given().find(|(_, price)| !(price.is_finite() && *price >= 0.0)) {
            return Err(Error::argument(key, format!("found {price}"), "give a price of 0 or more"));
        }
        let named = self.currency.as_ref().is_some_and(|name| !name.trim().is_empty());
        match given().next() {
            Some((key, _)) if !named => {
                let found = format!("{key} has a price, and no currency is named");
                Err(Error::argument("cost.currency", found, "name it, such as \"USD\""))
            }
            None if self.currency.is_some() => {
                let remedy = "give the price of what you pay for, such as cpu_hour, or leave [cost] out";
                Err(Error::argument("cost", "a currency without any price", remedy))
            }
            _ => Ok(()),
        }
    }

    /// What was spent, in this currency; none without a price of something that was counted.
    pub fn of(&self, spent: &Spent) -> Option<f64> {
        // A sum of which a part is missing is none.
        if self.kilowatt_hour.is_some() && spent.joules.is_none() {
            return None;
        }
        let hours = |seconds: f64| (seconds > 0.0).then_some(seconds / 3600.0);
        let hours =
            [(self.cpu_hour, hours(spent.seconds - spent.gpu_seconds)), (self.gpu_hour, hours(spent.gpu_seconds))];
        let machine: Vec<f64> = hours.iter().filter_map(|(price, hours)| Some((*price)? * (*hours)?)).collect();
        let millions = |tokens: u64| tokens as f64 / 1e6;
        let parts = [
            (!machine.is_empty()).then(|| machine.iter().sum()),
            self.million_prompt_tokens.map(|price| price * millions(spent.prompt_tokens)),
            self.million_completion_tokens.map(|price| price * millions(spent.completion_tokens)),
            self.kilowatt_hour.zip(spent.joules).map(|(price, joules)| price * joules / 3.6e6),
        ];
        let known: Vec<f64> = parts.into_iter().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum())
    }
}

/// What was spent so far. Sums of several sessions add up.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Spent {
    /// Tokens of prompts, once for each completion.
    pub prompt_tokens: u64,
    /// Tokens of completions.
    pub completion_tokens: u64,
    /// Seconds of the work itself.
    pub seconds: f64,
    /// Those of them in which a GPU did it: a run may go on elsewhere.
    pub gpu_seconds: f64,
    /// Whether a GPU does it now.
    pub on_gpu: bool,
    /// The most memory that the process held, in bytes, GPU memory not included; none where the system does not say.
    pub peak_memory: Option<u64>,
    /// The energy of processors and memory, in joules, everything that runs on the machine included; none where a part of it
    /// could not be read. A GPU's is not included.
    pub joules: Option<f64>,
}

impl Spent {
    /// As a sentence, with money where there is a price for it.
    pub fn sentence(&self, prices: &CostConfig) -> String {
        let tokens = format!("{} tokens of prompts, {} of completions", self.prompt_tokens, self.completion_tokens);
        let memory = self.peak_memory.map_or_else(
            || "memory not known".to_owned(),
            |bytes| format!("{:.2} GiB at most", bytes as f64 / f64::from(1 << 30)),
        );
        let energy = self.joules.map_or_else(|| "energy not readable".to_owned(), |joules| format!("{joules:.0} J"));
        let money = match (prices.of(self), &prices.currency) {
            (Some(money), Some(currency)) => format!("{money:.4} {currency}"),
            _ => "no price given".to_owned(),
        };
        format!("{:.0} s, {tokens}, {memory}, {energy}, {money}", self.seconds)
    }
}

/// Watches the process and the machine while it works.
#[derive(Debug)]
pub struct Meter {
    energy: Result<Energy, String>,
    last: Instant,
}

impl Default for Meter {
    fn default() -> Self {
        Self::start()
    }
}

impl Meter {
    /// Starts to watch.
    pub fn start() -> Self {
        Self { energy: Energy::open(energy::POWERCAP.as_ref()), last: Instant::now() }
    }

    /// Why no energy is measured; none where it is.
    pub fn without_energy(&self) -> Option<&str> {
        self.energy.as_ref().err().map(String::as_str)
    }

    /// Adds what passed since the last reading, and these tokens. Read it at least every half an hour: the counters of
    /// energy begin again where they are full.
    pub fn add_to(&mut self, spent: &mut Spent, prompt_tokens: u64, completion_tokens: u64) {
        let first = spent.seconds == 0.0;
        let seconds = self.last.elapsed().as_secs_f64();
        spent.seconds += seconds;
        if spent.on_gpu {
            spent.gpu_seconds += seconds;
        }
        self.last = Instant::now();
        spent.prompt_tokens += prompt_tokens;
        spent.completion_tokens += completion_tokens;
        spent.peak_memory = spent.peak_memory.max(peak_memory());
        let joules = self.energy.as_mut().ok().and_then(Energy::since_last);
        // A sum of which a part is missing is none.
        let before = if first { Some(0.0) } else { spent.joules };
        spent.joules = before.zip(joules).map(|(sum, own)| sum + own);
    }
}

/// The most memory that this process held, in bytes. Linux tells it.
fn peak_memory() -> Option<u64> {
    high_water(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> CostConfig {
        CostConfig { currency: Some("USD".into()), cpu_hour: Some(0.5), gpu_hour: Some(4.0), ..CostConfig::default() }
    }

    #[test]
    fn money_is_what_was_counted_times_what_the_user_pays_and_nothing_else() {
        let spent = Spent { seconds: 1800.0, prompt_tokens: 2_000_000, completion_tokens: 500_000, ..Spent::default() };
        assert_eq!(prices().of(&spent), Some(0.25));
        assert_eq!(prices().of(&Spent { gpu_seconds: 1800.0, ..spent }), Some(2.0));
        assert_eq!(prices().of(&Spent { gpu_seconds: 900.0, ..spent }), Some(0.125 + 1.0), "half of it elsewhere");
        let tokens = CostConfig { million_prompt_tokens: Some(1.0), million_completion_tokens: Some(4.0), ..prices() };
        assert_eq!(tokens.of(&spent), Some(0.25 + 2.0 + 2.0));
        let energy = CostConfig { currency: Some("EUR".into()), kilowatt_hour: Some(0.3), ..CostConfig::default() };
        assert_eq!(energy.of(&spent), None, "no energy was measured");
        let measured = Spent { joules: Some(7.2e6), ..spent };
        assert!((energy.of(&measured).unwrap() - 0.6).abs() < 1e-12);
        assert_eq!(CostConfig::default().of(&measured), None, "there are no prices of ours");
        let said = spent.sentence(&prices());
        assert!(said.contains("1800 s, 2000000 tokens") && said.ends_with("energy not readable, 0.2500 USD"), "{said}");
        assert!(measured.sentence(&CostConfig::default()).ends_with("7200000 J, no price given"));
    }

    #[test]
    fn prices_without_a_currency_and_below_nothing_are_refused_by_key() {
        prices().validate().unwrap();
        CostConfig::default().validate().unwrap();
        let refused = |prices: CostConfig| prices.validate().unwrap_err().to_string();
        assert!(
            refused(CostConfig { currency: None, ..prices() }).contains("cost.currency: cost.cpu_hour has a price")
        );
        assert!(refused(CostConfig { gpu_hour: Some(-1.0), ..prices() }).contains("cost.gpu_hour: found -1"));
        assert!(refused(CostConfig { cpu_hour: Some(f64::NAN), ..prices() }).contains("cost.cpu_hour"));
        let idle = CostConfig { currency: Some("USD".into()), ..CostConfig::default() };
        assert!(refused(idle).contains("a currency without any price"));
        let unknown = serde_json::from_str::<CostConfig>(r#"{"gpu": 1}"#).unwrap_err().to_string();
        assert!(unknown.contains("unknown field `gpu`"), "{unknown}");
    }

    #[test]
    fn a_meter_adds_up_and_says_why_there_is_no_energy() {
        let mut meter = Meter { energy: Err("no counters".into()), last: Instant::now() };
        let mut spent = Spent::default();
        meter.add_to(&mut spent, 10, 3);
        meter.add_to(&mut spent, 5, 2);
        assert_eq!((spent.prompt_tokens, spent.completion_tokens, spent.joules), (15, 5, None));
        assert!(spent.seconds > 0.0 && spent.seconds < 60.0);
        assert_eq!(meter.without_energy(), Some("no counters"));
        if cfg!(target_os = "linux") {
            assert!(spent.peak_memory.unwrap() > 1 << 20);
        }
        assert_eq!(high_water("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS: 1 kB\n"), Some(2 << 20));
        assert_eq!(high_water("Name:\tx\n"), None);
    }
}
