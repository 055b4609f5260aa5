//! The KL term: how far the policy is from the reference, token by token.

/// The k3 estimator of KL(policy || reference) for one token (Schulman, "Approximating KL Divergence", 2020):
/// `exp(d) - d - 1` at `d = ref_logp - logp`, in nats and never negative. Beside it its derivative with respect to `logp`,
/// `1 - exp(d)`.
pub(super) fn k3(logp: f64, ref_logp: f64) -> (f64, f64) {
    let d = ref_logp - logp;
    (d.exp_m1() - d, -d.exp_m1())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_negative_nothing_where_both_agree_and_has_its_derivative() {
        assert_eq!(k3(-1.5, -1.5).0, 0.0);
        for (logp, ref_logp) in [(-0.1, -3.0), (-3.0, -0.1), (-2.0, -2.01), (-7.0, -0.5)] {
            let (estimate, derivative) = k3(logp, ref_logp);
            assert!(estimate > 0.0);
            let step = 1e-6;
            let difference = (k3(logp + step, ref_logp).0 - k3(logp - step, ref_logp).0) / (2.0 * step);
            assert!((derivative - difference).abs() < 1e-6 * difference.abs().max(1.0), "{derivative}, {difference}");
        }
    }
}
