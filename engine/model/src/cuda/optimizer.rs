//! AdamW on a GPU. Values and moments stay there from update to update, and go from there to where the decoder reads them;
//! the host gets a copy of the values for all that is saved and evaluated.

use std::any::Any;

use super::gradients::split;
use super::{CudaDecoder, CudaGradients};
use crate::adapter::Adapter;
use crate::backend::Optimize;
use crate::optimizer::{AdamWState, AdamWStep, Moments, Resident, Updated};
use querywright_kernels::device::{AdamWConstants, Buffer, Device};
use querywright_types::{Error, Result};

/// Values and moments of all parameters on a device, one parameter behind the other.
#[derive(Debug)]
struct OnDevice {
    device: Device,
    names: Vec<String>,
    lengths: Vec<usize>,
    values: Buffer,
    m: Buffer,
    v: Buffer,
    /// The values as they were after the last update.
    known: Vec<Vec<f32>>,
}

impl OnDevice {
    /// Brings values and moments to a device.
    fn new(device: &Device, state: &AdamWState, adapter: &Adapter) -> Result<Self> {
        let (mut names, mut lengths) = (Vec::new(), Vec::new());
        let (mut all, mut m, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for (name, factor) in adapter.parameters() {
            let values = factor.values();
            state.check(&name, values.len(), values.len())?;
            all.extend_from_slice(values);
            match state.moments.get(&name) {
                Some(known) => {
                    m.extend_from_slice(&known.m);
                    v.extend_from_slice(&known.v);
                }
                None => {
                    m.resize(all.len(), 0.0);
                    v.resize(all.len(), 0.0);
                }
            }
            names.push(name);
            lengths.push(values.len());
        }
        let (values, m, v) = (device.upload(&all)?, device.upload(&m)?, device.upload(&v)?);
        Ok(Self { device: device.clone(), names, lengths, values, m, v, known: Vec::new() })
    }

    /// Whether these are the adapter's values. It may be another adapter, or have been changed since, or the last update was
    /// made on another device.
    fn is_current(&self, device: &Device, adapter: &Adapter) -> bool {
        self.device.is(device)
            && self.known.iter().map(Vec::as_slice).eq(adapter.parameters().map(|(_, factor)| factor.values()))
    }

    fn read(&self, buffer: &Buffer) -> Result<Vec<Vec<f32>>> {
        let mut all = vec![0f32; self.lengths.iter().sum()];
        self.device.read(buffer.view(), &mut all)?;
        Ok(split(all, &self.lengths))
    }
}

impl Resident for OnDevice {
    fn moments(&self) -> Result<Vec<(String, Moments)>> {
        let of_parameter = self.read(&self.m)?.into_iter().zip(self.read(&self.v)?).map(|(m, v)| Moments { m, v });
        Ok(self.names.iter().cloned().zip(of_parameter).collect())
    }
}

/// The part of the state that a device holds.
fn resident(state: &mut AdamWState) -> Option<&mut OnDevice> {
    let resident: &mut dyn Any = state.resident.as_deref_mut()?;
    resident.downcast_mut()
}

impl Optimize for CudaDecoder {
    /// As on the processor, and with its numbers.
    fn update(
        &self,
        state: &mut AdamWState,
        adapter: &mut Adapter,
        gradients: &CudaGradients,
        step: &AdamWStep,
    ) -> Result<Updated> {
        let (device, count) = (&self.device, gradients.lengths().iter().sum());
        let grad_norm = device.squares(gradients.view(), count)?.sqrt();
        if grad_norm == 0.0 || !grad_norm.is_finite() {
            return Ok(Updated { grad_norm, skipped: grad_norm != 0.0 });
        }
        if !resident(state).is_some_and(|resident| resident.is_current(device, adapter)) {
            state.fetch()?;
            state.resident = Some(Box::new(OnDevice::new(device, state, adapter)?));
        }
        let (correct1, correct2) = step.corrections(state.step + 1);
        let on_device =
            resident(state).ok_or_else(|| Error::bug("optimizer on a GPU", "no state where it was uploaded"))?;
        if on_device.lengths != gradients.lengths() {
            let found = format!("gradients of {} factors for {}", gradients.lengths().len(), on_device.lengths.len());
            return Err(Error::bug("optimizer on a GPU", found));
        }
        let constants = AdamWConstants {
            learning_rate: step.learning_rate,
            beta1: step.beta1,
            beta2: step.beta2,
            epsilon: step.epsilon,
            weight_decay: step.weight_decay,
            correct1,
            correct2,
            factor: step.clip_factor(grad_norm),
        };
        device.adamw(
            on_device.values.view(),
            gradients.view(),
            (on_device.m.view(), on_device.v.view()),
            count,
            constants,
        )?;
        on_device.known = on_device.read(&on_device.values)?;
        adapter.set(on_device.known.iter().cloned())?;
        self.place_resident(adapter.deltas(), on_device.values.view())?;
        state.step += 1;
        Ok(Updated { grad_norm, skipped: false })
    }
}
