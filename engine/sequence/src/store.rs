//! A trained model on disk, `FOLDER/sasrec-KEY.safetensors`: [made once](querywright_data::made_once), checked when it is read.
//! KEY is the digest of all that shapes it.
//!
//! The weights have RecBole's names. The metadata of the file hold the whole key and a SHA-256 of the weights.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::broken;
use crate::layers::{Weight, Weights, values};
use querywright_data::digest::sha256_of;
use querywright_data::made_once::{Place, read_or_make};
use querywright_types::{Error, Result};

/// A change of the networks, of training or of the file is a new version: models of older ones are trained anew.
pub(crate) const FORMAT_VERSION: u32 = 2;

const KEY: &str = "key";
const SHA256: &str = "sha256";

/// Reads the weights of `key` from `folder`, or makes them with `make` and keeps them there. Where several processes need
/// the same ones, one makes them and the others wait.
pub(crate) fn open_or_make(
    folder: &Path,
    name: &str,
    key: &str,
    shapes: &[Weight],
    make: impl FnOnce() -> Result<Weights>,
) -> Result<Weights> {
    let name = format!("{name}-{}", key.get(..16).unwrap_or(key));
    let make = || {
        let weights = make()?;
        let bytes = written(key, &weights)?;
        Ok((weights, bytes))
    };
    let read = |path: &Path| Ok(read(path, key, shapes)?.map(|weights| (weights, Vec::new())));
    let place = Place { folder, name: &name, kind: "safetensors" };
    Ok(read_or_make(place, read, make, |(_, bytes), file| file.write_all(bytes))?.0)
}

/// A digest of the values, by name and shape.
pub(crate) fn digest(weights: &Weights) -> Result<String> {
    Ok(sum(&bytes(weights)?))
}

/// Shapes, and values in single precision, the lowest byte first.
type Bytes = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn sum(weights: &Bytes) -> String {
    let parts = weights.iter().flat_map(|(name, (shape, bytes))| [name.as_bytes().to_vec(), of(shape), bytes.clone()]);
    sha256_of(&parts.collect::<Vec<_>>())
}

fn of(shape: &[usize]) -> Vec<u8> {
    shape.iter().flat_map(|size| (*size as u64).to_le_bytes()).collect()
}

fn bytes(weights: &Weights) -> Result<Bytes> {
    let pair = |(name, tensor): (&String, &Tensor)| {
        let bytes: Vec<u8> = values(tensor)?.into_iter().flat_map(f32::to_le_bytes).collect();
        Ok((name.clone(), (tensor.dims().to_vec(), bytes)))
    };
    weights.iter().map(pair).collect::<candle_core::Result<_>>().map_err(broken)
}

fn written(key: &str, weights: &Weights) -> Result<Vec<u8>> {
    let bytes = bytes(weights)?;
    let metadata = HashMap::from([(KEY.to_owned(), key.to_owned()), (SHA256.to_owned(), sum(&bytes))]);
    let bug = |error: safetensors::SafeTensorError| Error::bug("sequence store", error.to_string());
    let mut views = Vec::with_capacity(bytes.len());
    for (name, (shape, bytes)) in &bytes {
        views.push((name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(bug)?));
    }
    safetensors::serialize(views, Some(metadata)).map_err(bug)
}

/// The weights, where the file is whole, of this key, and holds exactly these shapes. Nothing is taken of a damaged one: it
/// would give wrong rankings without a word.
///
/// # Errors
/// A file that is there and cannot be read: minutes of work are not done again for a permission.
fn read(place: &Path, key: &str, shapes: &[Weight]) -> Result<Option<Weights>> {
    match fs::read(place) {
        Ok(file) => Ok(whole(&file, key, shapes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::read(place, e)),
    }
}

fn whole(file: &[u8], key: &str, shapes: &[Weight]) -> Option<Weights> {
    let (_, header) = SafeTensors::read_metadata(file).ok()?;
    let metadata = header.metadata().as_ref()?;
    let tensors = SafeTensors::deserialize(file).ok()?;
    if metadata.get(KEY).map(String::as_str) != Some(key) || tensors.len() != shapes.len() {
        return None;
    }
    let mut weights = Weights::new();
    for (name, shape, _) in shapes {
        let view = tensors.tensor(name).ok().filter(|view| view.shape() == shape && view.dtype() == Dtype::F32)?;
        let values: Vec<f32> = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        weights.insert(name.clone(), Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).ok()?);
    }
    let whole = digest(&weights).ok().as_ref() == metadata.get(SHA256);
    whole.then_some(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Start;

    const LONG: &str = "0123456789abcdef0123";

    fn shapes() -> Vec<Weight> {
        vec![("a".to_owned(), vec![2, 3], Start::Constant(0.0)), ("b".to_owned(), vec![1], Start::Constant(0.0))]
    }

    fn opened(folder: &Path, key: &str, made: &mut usize) -> Weights {
        open_or_make(folder, "sasrec", key, &shapes(), || {
            *made += 1;
            let values = vec![1.0_f32, -2.5, 3.0, 0.25, f32::MIN_POSITIVE, 6.0];
            let a = Tensor::from_vec(values, (2, 3), &Device::Cpu).map_err(broken)?;
            let b = Tensor::from_vec(vec![7.0_f32], 1, &Device::Cpu).map_err(broken)?;
            Ok(Weights::from([("a".to_owned(), a), ("b".to_owned(), b)]))
        })
        .unwrap()
    }

    #[test]
    fn a_model_is_trained_once_and_read_again_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let mut made = 0;
        let first = digest(&opened(folder.path(), LONG, &mut made)).unwrap();
        assert_eq!(first, digest(&opened(folder.path(), LONG, &mut made)).unwrap());
        assert_eq!(made, 1);
        // Another key whose file has the same name is of other sequences.
        opened(folder.path(), "0123456789abcdef9999", &mut made);
        assert_eq!(made, 2);
    }

    #[test]
    fn a_file_that_was_cut_off_or_altered_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut made = 0;
        let right = digest(&opened(folder.path(), LONG, &mut made)).unwrap();
        let place = folder.path().join(format!("sasrec-{}.safetensors", &LONG[..16]));
        let whole = fs::read(&place).unwrap();
        let mut altered = whole.clone();
        *altered.last_mut().unwrap() ^= 1;
        let pieces: [&[u8]; 4] = [&whole[..whole.len() - 1], &whole[..10], &[], &altered];
        for (at, bytes) in pieces.into_iter().enumerate() {
            fs::write(&place, bytes).unwrap();
            assert_eq!(digest(&opened(folder.path(), LONG, &mut made)).unwrap(), right);
            assert_eq!(made, at + 2, "damage {at} was seen and mended");
        }
    }
}
