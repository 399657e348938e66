// No record, no run: the release takes the receipt of a durable record.
fn release(frozen: bailey::sandbox::Frozen) {
    let _ = frozen.release();
}

fn main() {}
