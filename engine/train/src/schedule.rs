//! Values that change from step to step: the learning rate, and the weight of the entropy bonus.
//!
//! Schedules have transformers' names and formulas (`get_scheduler`); the entropy controller has those of TRL
//! (`use_adaptive_entropy`, after Skywork-OR1, arXiv 2505.22312), and their mirror image above a ceiling:
//!
//! ```text
//! bonus   <- min(bonus + delta, max)            where the entropy is at most the target,   else max(bonus - delta, min)
//! penalty <- min(penalty + delta, penalty_max)  where the entropy is at least the ceiling, else max(penalty - delta, 0)
//! coefficient of the next step: bonus at or below the target, -penalty at or above the ceiling, 0 in between
//! ```

use querywright_types::{Error, Result};

/// The shape of the learning rate: transformers' `lr_scheduler_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SchedulerType {
    /// The same rate throughout; warm-up is refused.
    Constant,
    /// Linear warm-up, then the same rate.
    ConstantWithWarmup,
    /// Linear warm-up, then linearly to 0. transformers' default.
    #[default]
    Linear,
    /// Linear warm-up, then along half a cosine to 0.
    Cosine,
}

/// The settings of the learning rate.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// The highest rate. Default 1e-4, for adapters (TRL's 1e-6 is for full weights).
    pub learning_rate: f64,
    /// Default `linear`.
    pub lr_scheduler_type: SchedulerType,
    /// Steps of warm-up; goes before `warmup_ratio` where it is above 0. Default 0.
    pub warmup_steps: u64,
    /// Steps of warm-up as a share of all steps, rounded up. Default 0.
    pub warmup_ratio: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-4, lr_scheduler_type: SchedulerType::Linear, warmup_steps: 0, warmup_ratio: 0.0 }
    }
}

/// The learning rate of every step of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    kind: SchedulerType,
    peak: f64,
    warmup: u64,
    steps: u64,
}

impl Schedule {
    /// The schedule of a run of `steps` steps.
    ///
    /// # Errors
    /// When the rate, the ratio or the warm-up cannot be used; the message names the key.
    pub fn new(config: &ScheduleConfig, steps: u64) -> Result<Self> {
        let ScheduleConfig { learning_rate: peak, lr_scheduler_type: kind, warmup_steps, warmup_ratio } = *config;
        if !(peak.is_finite() && peak >= 0.0) {
            return Err(Error::argument("learning_rate", format!("{peak}"), "give a number above 0, as 1e-5"));
        }
        if !(0.0..=1.0).contains(&warmup_ratio) {
            return Err(Error::argument("warmup_ratio", format!("{warmup_ratio}"), "give a share from 0 to 1, as 0.1"));
        }
        let warmup = if warmup_steps > 0 { warmup_steps } else { (steps as f64 * warmup_ratio).ceil() as u64 };
        if kind == SchedulerType::Constant && warmup > 0 {
            let found = format!("constant with {warmup} steps of warm-up");
            return Err(Error::argument(
                "lr_scheduler_type",
                found,
                "say constant_with_warmup, or leave the warm-up out",
            ));
        }
        Ok(Self { kind, peak, warmup, steps })
    }

    /// The learning rate of a step, counted from 0. With warm-up the first one is 0; past the end of the run the
    /// decaying schedules stay at 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup && self.kind != SchedulerType::Constant {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let decay = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let share = match self.kind {
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
            SchedulerType::Linear => self.steps.saturating_sub(step) as f64 / decay,
            SchedulerType::Cosine => {
                let progress = ((step - self.warmup) as f64 / decay).min(1.0);
                0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        };
        self.peak * share
    }
}

/// The settings of an entropy target, under TRL's names, and of a ceiling, which TRL has not.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EntropyControlConfig {
    /// The mean entropy per token, in nats, below which the bonus comes on. Default 0.2.
    pub entropy_target: f64,
    /// How much the coefficient moves each step. Default 0.005.
    pub entropy_coef_delta: f64,
    /// Its lower bound. Default 0.
    pub entropy_coef_min: f64,
    /// Its upper bound. Default 1.
    pub entropy_coef_max: f64,
    /// The mean entropy per token, in nats, above which the coefficient is negative: a penalty. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_ceiling: Option<f64>,
    /// The upper bound of the penalty, which moves by `entropy_coef_delta` too. Default 0.2.
    #[serde(skip_serializing_if = "is_default_penalty")]
    pub entropy_penalty_max: f64,
}

const PENALTY_MAX: f64 = 0.2;

/// A default is not written: checkpoints from before the key resume.
fn is_default_penalty(value: &f64) -> bool {
    *value == PENALTY_MAX
}

impl Default for EntropyControlConfig {
    fn default() -> Self {
        Self {
            entropy_target: 0.2,
            entropy_coef_delta: 0.005,
            entropy_coef_min: 0.0,
            entropy_coef_max: 1.0,
            entropy_ceiling: None,
            entropy_penalty_max: PENALTY_MAX,
        }
    }
}

/// Holds the policy's entropy between a target and a ceiling by moving the coefficient of the entropy bonus: up while the
/// entropy is at or below the target, down while it is above; and below 0 while it is at or above the ceiling. The state
/// goes into checkpoints.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EntropyControl {
    config: EntropyControlConfig,
    coefficient: f64,
    last_entropy: Option<f64>,
    /// What is subtracted above the ceiling; 0 in checkpoints from before there was one.
    #[serde(default)]
    penalty: f64,
}

impl EntropyControl {
    /// A controller that starts from the coefficient `entropy_coef`.
    ///
    /// # Errors
    /// When the bounds are crossed or a value is not a number.
    pub fn new(config: EntropyControlConfig, entropy_coef: f64) -> Result<Self> {
        let EntropyControlConfig { entropy_target, entropy_coef_delta: delta, entropy_coef_min: min, .. } = config;
        if !(min.is_finite() && min <= config.entropy_coef_max) {
            let found = format!("{min} with a maximum of {}", config.entropy_coef_max);
            return Err(Error::argument("entropy_coef_min", found, "keep it at or below entropy_coef_max"));
        }
        for (name, value) in [("entropy_target", entropy_target), ("entropy_coef_delta", delta)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::argument(name, format!("{value}"), "give a number of at least 0"));
            }
        }
        if let Some(ceiling) =
            config.entropy_ceiling.filter(|ceiling| !(ceiling.is_finite() && *ceiling > entropy_target))
        {
            let remedy = format!("give a number above entropy_target = {entropy_target}, as 2.5, or leave it out");
            return Err(Error::argument("entropy_ceiling", format!("{ceiling}"), remedy));
        }
        if !(config.entropy_penalty_max.is_finite() && config.entropy_penalty_max >= 0.0) {
            let found = format!("{}", config.entropy_penalty_max);
            return Err(Error::argument("entropy_penalty_max", found, "give a number of at least 0, as 0.2"));
        }
        Ok(Self { config, coefficient: entropy_coef, last_entropy: None, penalty: 0.0 })
    }

    /// The coefficient for the coming step: 0 before the first measurement and while the entropy is between target and
    /// ceiling, negative above the ceiling.
    pub fn applied(&self) -> f64 {
        match self.last_entropy {
            Some(entropy) if entropy <= self.config.entropy_target => self.coefficient,
            Some(entropy) if self.is_above(entropy) => -self.penalty,
            _ => 0.0,
        }
    }

    fn is_above(&self, entropy: f64) -> bool {
        self.config.entropy_ceiling.is_some_and(|ceiling| entropy >= ceiling)
    }

    /// Takes in the mean entropy per token of the step just made. A measurement that is not a number is passed over.
    pub fn observe(&mut self, entropy: f64) {
        if entropy.is_nan() {
            return;
        }
        let EntropyControlConfig { entropy_target, entropy_coef_delta: delta, entropy_coef_min: min, .. } = self.config;
        self.coefficient = match entropy <= entropy_target {
            true => (self.coefficient + delta).min(self.config.entropy_coef_max),
            false => (self.coefficient - delta).max(min),
        };
        self.penalty = match self.is_above(entropy) {
            true => (self.penalty + delta).min(self.config.entropy_penalty_max),
            false => (self.penalty - delta).max(0.0),
        };
        self.last_entropy = Some(entropy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        lr_scheduler_type: SchedulerType,
        warmup_steps: u64,
        steps: u64,
        learning_rate: f64,
        rates: Vec<f64>,
    }

    #[test]
    fn rates_equal_those_of_transformers_and_stay_there_after_the_end() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/adamw.json"));
        let golden = serde_json::from_str::<serde_json::Value>(text).unwrap()["schedules"].take();
        let cases: Vec<Case> = serde_json::from_value(golden).unwrap();
        assert_eq!(cases.len(), 7);
        for case in cases {
            let Case { lr_scheduler_type, warmup_steps, steps, learning_rate, .. } = case;
            let config = ScheduleConfig { learning_rate, lr_scheduler_type, warmup_steps, warmup_ratio: 0.0 };
            let schedule = Schedule::new(&config, steps).unwrap();
            for (step, right) in case.rates.iter().enumerate().take(steps as usize + 1) {
                let found = schedule.rate(step as u64);
                assert!((found - right).abs() < 1e-9, "{config:?}, step {step}: {found} is not {right}");
            }
            let decays = matches!(lr_scheduler_type, SchedulerType::Linear | SchedulerType::Cosine);
            assert_eq!(schedule.rate(steps + 1), if decays { 0.0 } else { learning_rate }, "{config:?}");
        }
    }

    #[test]
    fn a_warm_up_ratio_is_rounded_up_and_steps_go_before_it() {
        let ratio = ScheduleConfig { learning_rate: 1.0, warmup_ratio: 0.25, ..ScheduleConfig::default() };
        let schedule = Schedule::new(&ratio, 10).unwrap();
        assert_eq!((schedule.rate(0), schedule.rate(3)), (0.0, 1.0));
        let both = ScheduleConfig { warmup_steps: 5, ..ratio };
        assert_eq!(Schedule::new(&both, 10).unwrap().rate(5), 1.0);
    }

    #[test]
    fn settings_without_meaning_are_refused_by_key() {
        let refuse = |config: ScheduleConfig| Schedule::new(&config, 10).unwrap_err().to_string();
        let base = ScheduleConfig::default;
        assert!(refuse(ScheduleConfig { learning_rate: f64::NAN, ..base() }).starts_with("learning_rate"));
        assert!(refuse(ScheduleConfig { warmup_ratio: 2.0, ..base() }).starts_with("warmup_ratio"));
        let constant = ScheduleConfig { lr_scheduler_type: SchedulerType::Constant, warmup_steps: 2, ..base() };
        assert!(refuse(constant).contains("constant_with_warmup"));
    }

    #[test]
    fn the_entropy_bonus_comes_on_below_the_target_and_goes_off_above_it() {
        let config = EntropyControlConfig { entropy_target: 0.5, entropy_coef_delta: 0.01, ..Default::default() };
        let mut control = EntropyControl::new(config, 0.02).unwrap();
        assert_eq!(control.applied(), 0.0, "nothing was measured yet");
        control.observe(0.4);
        assert!((control.applied() - 0.03).abs() < 1e-12);
        control.observe(0.9);
        assert_eq!(control.applied(), 0.0);
        control.observe(0.5);
        assert!((control.applied() - 0.03).abs() < 1e-12, "down by one step, then up by one");
        (0..200).for_each(|_| control.observe(0.1));
        assert_eq!(control.applied(), 1.0);
        control.observe(f64::NAN);
        assert_eq!(control.applied(), 1.0);
        let saved: EntropyControl = serde_json::from_str(&serde_json::to_string(&control).unwrap()).unwrap();
        assert_eq!(saved, control);
    }

    #[test]
    fn above_a_ceiling_the_coefficient_is_a_bounded_penalty_that_goes_off_below_it() {
        let config = EntropyControlConfig {
            entropy_target: 0.5,
            entropy_coef_delta: 0.01,
            entropy_ceiling: Some(2.0),
            entropy_penalty_max: 0.025,
            ..Default::default()
        };
        let mut control = EntropyControl::new(config, 0.0).unwrap();
        let mut after = |entropy: f64| {
            control.observe(entropy);
            control.applied()
        };
        let near = |found: f64, right: f64| assert!((found - right).abs() < 1e-12, "{found} is not {right}");
        near(after(3.0), -0.01);
        near(after(2.0), -0.02);
        near(after(9.0), -0.025);
        near(after(1.0), 0.0);
        near(after(2.5), -0.025);
        near(after(0.4), 0.01);
        let saved: EntropyControl = serde_json::from_str(&serde_json::to_string(&control).unwrap()).unwrap();
        assert_eq!(saved, control);
    }

    #[test]
    fn without_a_ceiling_no_entropy_is_too_high_and_what_older_versions_wrote_is_read() {
        let mut control = EntropyControl::new(EntropyControlConfig::default(), 0.0).unwrap();
        control.observe(9.0);
        assert_eq!(control.applied(), 0.0);
        let written = toml::to_string(&EntropyControlConfig::default()).unwrap();
        assert!(!written.contains("ceiling") && !written.contains("penalty"), "{written}");
        let old = r#"{"config": {"entropy_target": 0.5, "entropy_coef_delta": 0.01, "entropy_coef_min": 0.0,
            "entropy_coef_max": 1.0}, "coefficient": 0.02, "last_entropy": 0.4}"#;
        assert_eq!(serde_json::from_str::<EntropyControl>(old).unwrap().applied(), 0.02);
    }

    #[test]
    fn a_ceiling_at_the_target_and_a_penalty_below_zero_are_refused_by_key() {
        let refuse = |config: EntropyControlConfig| EntropyControl::new(config, 0.0).unwrap_err().to_string();
        let base = EntropyControlConfig::default;
        assert!(refuse(EntropyControlConfig { entropy_ceiling: Some(0.2), ..base() }).starts_with("entropy_ceiling"));
        assert!(refuse(EntropyControlConfig { entropy_ceiling: Some(f64::NAN), ..base() }).contains("above"));
        let negative = EntropyControlConfig { entropy_penalty_max: -1.0, ..base() };
        assert!(refuse(negative).starts_with("entropy_penalty_max"));
    }
}
