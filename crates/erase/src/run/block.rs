//! What every block device can do: writing zeros, discarding, overwriting.
//!
//! The kernel says that a write worked; the device shows it. After a flush, blocks all over the device are read, and have to be
//! what was written. Which ones is no secret, so this finds a device that does nothing; the proof looks where nobody knows.

use super::{Finished, Meter, Offer, Run, WHOLE};
use crate::{Failure, Method, Options};
use hardware::{Device, DeviceError, Limits};
use std::ops::Range;

/// Bytes of a write or a read.
const CHUNK: u64 = 1 << 20;
/// Bytes of one request to write zeros or to discard: between two there is progress, and a chance to stop.
const REQUEST: u64 = 256 << 20;
/// The share of a discard in its method, the rest of which is reading all of the device.
const DISCARD: u32 = WHOLE / 20;
/// Blocks that are read back, besides the first and the last.
const SAMPLES: u64 = 64;
/// Blocks that cannot be written, after which the rest is not tried any more.
const MOST_BAD: u32 = 64;

const PARTLY: &str = "a part of the device is overwritten";

/// The methods, `hidden` of whose blocks nobody gets at.
pub(crate) fn offers(limits: &Limits, options: &Options, hidden: u64) -> Vec<Offer> {
    let mut offers = Vec::new();
    if options.zeroize && options.passes <= 1 {
        offers.push(Offer::new(
            Method::WriteZeroes,
            limits.write_zeroes_max > 0,
            "the device has no command that writes zeros",
        ));
    }
    if options.discard {
        offers.push(Offer::new(Method::Discard, limits.discard_max > 0, "the device has no discard"));
    }
    offers.push(Offer { method: Method::Overwrite, failure: None });
    if hidden > 0 {
        offers.iter_mut().for_each(|offer| offer.failure = Some(super::ata::hidden_from(hidden)));
    }
    offers
}

pub(crate) fn carry_out(run: Run<'_>) -> Result<Finished, Failure> {
    let limits = run.device.limits();
    match run.method {
        Method::WriteZeroes => {
            requests(run, &limits, 1, WHOLE, |device, at, length| device.write_zeroes(at, length))?;
            run.device.flush()?;
            samples(run, &limits, |_, buffer| buffer.fill(0))
        }
        Method::Discard => {
            requests(run, &limits, limits.discard_granularity, DISCARD, |device, at, length| {
                device.discard(at, length)
            })?;
            run.device.flush()?;
            zeros_everywhere(run, &limits)
        }
        _ => overwrite(run, &limits),
    }
}

fn go_on(run: Run<'_>) -> Result<(), Failure> {
    if run.control.is_cancelled() { Err(Failure::Cancelled(PARTLY)) } else { Ok(()) }
}

/// How far the method is when `done` of `whole` are, which are these 65536ths of it.
fn part(done: u64, whole: u64, of: Range<u32>) -> Option<u32> {
    let length = u128::from(of.end - of.start);
    Some(of.start + (u128::from(done) * length / u128::from(whole.max(1))) as u32)
}

/// Asks for the whole device in pieces, each of which begins at a multiple of `granularity`. All of it is `share` 65536ths of the
/// method.
fn requests(
    run: Run<'_>,
    limits: &Limits,
    granularity: u64,
    share: u32,
    request: impl Fn(&dyn Device, u64, u64) -> Result<(), DeviceError>,
) -> Result<(), Failure> {
    let granularity = granularity.max(1);
    let step = (REQUEST / granularity).max(1).saturating_mul(granularity);
    let mut meter = Meter::new(run, None);
    let mut at = 0;
    while at < limits.size {
        go_on(run)?;
        meter.report(part(at, limits.size, 0..share));
        let length = step.min(limits.size - at);
        request(run.device, at, length)?;
        at += length;
    }
    Ok(())
}

/// Reads everything, which has to be zeros.
fn zeros_everywhere(run: Run<'_>, limits: &Limits) -> Result<Finished, Failure> {
    let mut meter = Meter::new(run, None);
    let mut buffer = vec![0; CHUNK as usize];
    let mut at = 0;
    while at < limits.size {
        go_on(run)?;
        meter.report(part(at, limits.size, DISCARD..WHOLE));
        let length = CHUNK.min(limits.size - at);
        let chunk = &mut buffer[..length as usize];
        run.device.read_at(chunk, at)?;
        if let Some(place) = chunk.iter().position(|byte| *byte != 0) {
            let text = format!("the byte at {} is not zero after everything was discarded", at + place as u64);
            return Err(Failure::Remains(text));
        }
        at += length;
    }
    let evidence = format!("all {} bytes read as zeros after the discard", limits.size);
    Ok(Finished { evidence, answer: Vec::new() })
}

/// Reads blocks all over the device, which have to be what `expected` makes of their place.
fn samples(run: Run<'_>, limits: &Limits, expected: impl Fn(u64, &mut [u8])) -> Result<Finished, Failure> {
    let block = u64::from(limits.logical_block.max(1));
    let blocks = limits.size / block;
    let mut places: Vec<u64> =
        (0..SAMPLES).map(|index| (u128::from(blocks) * u128::from(index) / u128::from(SAMPLES)) as u64).collect();
    places.push(blocks.saturating_sub(1));
    places.dedup();
    let (mut found, mut wanted) = (vec![0; block as usize], vec![0; block as usize]);
    for place in &places {
        run.device.read_at(&mut found, place * block)?;
        expected(place * block, &mut wanted);
        if found != wanted {
            return Err(Failure::Remains(format!(
                "the block at byte {} reads other than it was written",
                place * block
            )));
        }
    }
    let evidence = format!("everything was written and flushed; {} blocks read back as written", places.len());
    Ok(Finished { evidence, answer: Vec::new() })
}

/// Random data that can be made again for any place: splitmix64 of the number of the word.
fn random(seed: u64, pass: u32, offset: u64, buffer: &mut [u8]) {
    let seed = seed ^ u64::from(pass + 1).wrapping_mul(0xd1b5_4a32_d192_ed03);
    for (index, word) in (offset / 8..).zip(buffer.chunks_mut(8)) {
        let mut mixed = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bytes = (mixed ^ mixed >> 31).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

fn overwrite(run: Run<'_>, limits: &Limits) -> Result<Finished, Failure> {
    let Options { passes, zeroize, seed, .. } = *run.options;
    let all = u64::from(passes) + u64::from(zeroize);
    let mut meter = Meter::new(run, None);
    let mut buffer = vec![0; CHUNK as usize];
    for pass in 0..all {
        let is_zero = pass == u64::from(passes);
        if is_zero {
            buffer.fill(0);
        }
        let mut bad = Bad::default();
        let mut at = 0;
        while at < limits.size {
            go_on(run)?;
            // All passes together; in KiB, so that many of a large disk do not overflow.
            let done = (pass * (limits.size >> 10)).saturating_add(at >> 10);
            meter.report(part(done, all * (limits.size >> 10), 0..WHOLE));
            let length = CHUNK.min(limits.size - at);
            let chunk = &mut buffer[..length as usize];
            if !is_zero {
                random(seed, pass as u32, at, chunk);
            }
            if run.device.write_at(chunk, at).is_err() {
                bad.piecewise(run.device, limits, chunk, at)?;
            }
            at += length;
        }
        run.device.flush()?;
        bad.is_none()?;
    }
    samples(run, limits, |place, block| if zeroize { block.fill(0) } else { random(seed, passes - 1, place, block) })
}

/// Blocks that could not be written.
#[derive(Default)]
struct Bad {
    count: u32,
    first: Option<u64>,
}

impl Bad {
    /// Writes what failed as a whole block by block, so that as much as possible is gone.
    fn piecewise(&mut self, device: &dyn Device, limits: &Limits, chunk: &[u8], at: u64) -> Result<(), Failure> {
        let block = limits.logical_block.max(1) as usize;
        for (offset, piece) in (at..).step_by(block).zip(chunk.chunks(block)) {
            if let Err(error) = device.write_at(piece, offset) {
                self.count += 1;
                self.first.get_or_insert(offset);
                if self.count >= MOST_BAD {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn is_none(&self) -> Result<(), Failure> {
        let Some(first) = self.first else { return Ok(()) };
        Err(Failure::NotDone(format!("{} blocks could not be written, the first at byte {first}", self.count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_data_is_the_same_wherever_it_begins() {
        let mut whole = [0; 64];
        random(7, 1, 4096, &mut whole);
        let mut part = [0; 32];
        random(7, 1, 4096 + 32, &mut part);
        assert_eq!(part, whole[32..]);
        let mut other = [0; 64];
        random(7, 2, 4096, &mut other);
        assert_ne!(other, whole);
    }
}
