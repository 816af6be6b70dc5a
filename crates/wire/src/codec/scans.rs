//! Scans of registers, listings of available keys, and their pages.

use ::available::{Listing, ListingPage};
use membership::{BucketId, Epoch, Position};
use replication::{RegisterKey, Scan, ScanEntry, ScanOutcome, ScanPage};

use super::bytes_io::{Reader, Writer};
use super::error::CodecError;
use super::operations::{read_refusal, write_refusal};
use super::registers::{KEY_BYTES_MIN, read_key, read_value, read_version, write_key, write_value, write_version};

pub(super) fn write_scan(w: &mut Writer<'_>, scan: &Scan) {
    w.varint(u64::from(scan.bucket.0));
    w.bytes(&scan.prefix);
    w.fixed_u64(scan.from.0);
    w.fixed_u64(scan.to.0);
    w.option(scan.after.as_ref(), write_key);
    w.fixed_u64(scan.cut);
    w.bool(scan.keep);
    w.bool(scan.values);
    w.varint(u64::from(scan.entries_max));
    w.varint(scan.since);
}

pub(super) fn read_scan(r: &mut Reader) -> Result<Scan, CodecError> {
    Ok(Scan {
        bucket: BucketId(r.varint_u32()?),
        prefix: r.bytes()?,
        from: Position(r.fixed_u64()?),
        to: Position(r.fixed_u64()?),
        after: r.option(read_key)?,
        cut: r.fixed_u64()?,
        keep: r.bool()?,
        values: r.bool()?,
        entries_max: r.varint_u32()?,
        since: r.varint()?,
    })
}

pub(super) fn write_scan_outcome(w: &mut Writer<'_>, outcome: &ScanOutcome) {
    match outcome {
        ScanOutcome::Page(page) => {
            w.u8(1);
            w.fixed_u64(page.cut);
            w.varint(page.time);
            w.varint(page.epoch.0);
            w.fixed_u64(page.through.0);
            w.list(&page.entries, write_entry);
            w.bool(page.more);
        }
        ScanOutcome::Gone => w.u8(2),
        ScanOutcome::Refused(refusal) => {
            w.u8(3);
            write_refusal(w, refusal);
        }
    }
}

pub(super) fn read_scan_outcome(r: &mut Reader) -> Result<ScanOutcome, CodecError> {
    Ok(match r.u8()? {
        1 => ScanOutcome::Page(ScanPage {
            cut: r.fixed_u64()?,
            time: r.varint()?,
            epoch: Epoch(r.varint()?),
            through: Position(r.fixed_u64()?),
            entries: r.list(KEY_BYTES_MIN, read_entry)?,
            more: r.bool()?,
        }),
        2 => ScanOutcome::Gone,
        3 => ScanOutcome::Refused(read_refusal(r)?),
        tag => return Err(CodecError::UnknownTag { noun: "outcome of a scan", tag }),
    })
}

fn write_entry(w: &mut Writer<'_>, entry: &ScanEntry) {
    write_key(w, &entry.key);
    write_version(w, &entry.version);
    w.varint(entry.size);
    w.varint(entry.ends_ms);
    w.option(entry.value.as_ref(), write_value);
}

fn read_entry(r: &mut Reader) -> Result<ScanEntry, CodecError> {
    Ok(ScanEntry {
        key: read_key(r)?,
        version: read_version(r)?,
        size: r.varint()?,
        ends_ms: r.varint()?,
        value: r.option(read_value)?,
    })
}

pub(super) fn write_listing(w: &mut Writer<'_>, listing: &Listing) {
    w.varint(u64::from(listing.bucket.0));
    w.bytes(&listing.prefix);
    w.fixed_u64(listing.from.0);
    w.fixed_u64(listing.to.0);
    w.option(listing.after.as_ref(), write_key);
    w.varint(listing.epoch.0);
}

pub(super) fn read_listing(r: &mut Reader) -> Result<Listing, CodecError> {
    Ok(Listing {
        bucket: BucketId(r.varint_u32()?),
        prefix: r.bytes()?,
        from: Position(r.fixed_u64()?),
        to: Position(r.fixed_u64()?),
        after: r.option(read_key)?,
        epoch: Epoch(r.varint()?),
    })
}

pub(super) fn write_listed(w: &mut Writer<'_>, listed: &Result<ListingPage, Epoch>) {
    match listed {
        Ok(ListingPage { keys, more, counts }) => {
            w.u8(1);
            w.list(keys, |w, key: &RegisterKey| write_key(w, key));
            w.bool(*more);
            w.bool(*counts);
        }
        Err(epoch) => {
            w.u8(2);
            w.varint(epoch.0);
        }
    }
}

pub(super) fn read_listed(r: &mut Reader) -> Result<Result<ListingPage, Epoch>, CodecError> {
    Ok(match r.u8()? {
        1 => Ok(ListingPage { keys: r.list(KEY_BYTES_MIN, read_key)?, more: r.bool()?, counts: r.bool()? }),
        2 => Err(Epoch(r.varint()?)),
        tag => return Err(CodecError::UnknownTag { noun: "answer to a listing", tag }),
    })
}
