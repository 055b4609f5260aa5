//! The update where the gradient is: on a device. Values and moments stay there from update to update, and go from there
//! to where the decoder reads them; the host gets a copy of the values for all that is saved and evaluated.

use super::{LearnerConfig, Updated};
use crate::error::Result;
use crate::kernels::device::AdamWConstants;
use crate::model::{Adapter, DeviceDecoder, DeviceGradients};
use crate::train::optimizer::{AdamW, Resident, clip_factor};

/// As the update on the host, and with its numbers.
pub(super) fn update(
    decoder: &DeviceDecoder,
    adapter: &mut Adapter,
    optimizer: &mut AdamW,
    learning_rate: f64,
    gradients: &DeviceGradients,
    config: &LearnerConfig,
) -> Result<Updated> {
    let (device, count) = (gradients.device(), gradients.count());
    let grad_norm = device.squares(gradients.view(), count)?.sqrt();
    if grad_norm == 0.0 || !grad_norm.is_finite() {
        return Ok(Updated { grad_norm, skipped: grad_norm != 0.0 });
    }
    let mut values: Vec<(String, Vec<f32>)> = Vec::new();
    for (name, variable) in adapter.parameters() {
        values.push((name, variable.flatten_all()?.to_vec1::<f32>()?));
    }
    // Somebody may have changed the adapter since, or it is another one, or the last update was made on another device.
    let stands = optimizer.resident.as_ref().is_some_and(|r| {
        let same = |(known, (_, values)): (&Vec<f32>, &(String, Vec<f32>))| known == values;
        r.device.is(device) && r.known.len() == values.len() && r.known.iter().zip(&values).all(same)
    });
    if !stands {
        optimizer.fetch()?;
        optimizer.resident = Some(settle(optimizer, values, gradients)?);
    }
    let Some(there) = &mut optimizer.resident else { return Ok(Updated { grad_norm, skipped: true }) };
    let steps = (optimizer.step + 1) as f64;
    let of = optimizer.config;
    let constants = AdamWConstants {
        learning_rate,
        beta1: of.beta1,
        beta2: of.beta2,
        epsilon: of.epsilon,
        weight_decay: of.weight_decay,
        correct1: 1.0 - of.beta1.powf(steps),
        correct2: 1.0 - of.beta2.powf(steps),
        factor: clip_factor(grad_norm, config.max_grad_norm),
    };
    device.adamw(there.values.view(), gradients.view(), (there.m.view(), there.v.view()), count, constants)?;
    let mut all = vec![0f32; count];
    device.read(there.values.view(), &mut all)?;
    let mut rest = all.into_iter();
    there.known = there.parameters.iter().map(|(_, length)| rest.by_ref().take(*length).collect()).collect();
    adapter.set(there.known.iter().cloned())?;
    decoder.take_values(adapter.deltas(), there.values.view())?;
    optimizer.step += 1;
    Ok(Updated { grad_norm, skipped: false })
}

/// Brings values and moments to the device.
fn settle(optimizer: &AdamW, values: Vec<(String, Vec<f32>)>, gradients: &DeviceGradients) -> Result<Resident> {
    let device = gradients.device();
    let (mut all, mut m, mut v) = (Vec::new(), Vec::new(), Vec::new());
    for (name, values) in &values {
        optimizer.check(name, values.len(), values.len())?;
        all.extend_from_slice(values);
        match optimizer.moments.get(name) {
            Some(known) => {
                m.extend_from_slice(&known.m);
                v.extend_from_slice(&known.v);
            }
            None => {
                m.resize(all.len(), 0.0);
                v.resize(all.len(), 0.0);
            }
        }
    }
    Ok(Resident {
        values: device.upload(&all)?,
        m: device.upload(&m)?,
        v: device.upload(&v)?,
        device: device.clone(),
        parameters: values.into_iter().map(|(name, values)| (name, values.len())).collect(),
        known: Vec::new(),
    })
}
