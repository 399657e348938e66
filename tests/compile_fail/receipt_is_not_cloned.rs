// One record, one receipt.
fn copy(receipt: bailey::audit::Receipt) -> (bailey::audit::Receipt, bailey::audit::Receipt) {
    (Clone::clone(&receipt), receipt)
}

fn main() {}
