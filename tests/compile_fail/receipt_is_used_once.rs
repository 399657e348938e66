// One receipt, one release.
use bailey::audit::Receipt;
use bailey::sandbox::Frozen;

fn twice(one: Frozen, two: Frozen, receipt: Receipt) {
    let _ = one.release(receipt);
    let _ = two.release(receipt);
}

fn main() {}
