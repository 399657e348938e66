// Every step of a launch consumes the one before it.
use bailey::audit::Receipt;
use bailey::sandbox::{Blueprint, Building, Explainer, Frozen};

fn started(blueprint: Blueprint) {
    let _ = blueprint.start();
    let _ = blueprint.start();
}

fn waited(building: Building, explainer: &Explainer) {
    let _ = building.wait_frozen(explainer);
    let _ = building.wait_frozen(explainer);
}

fn released(frozen: Frozen, one: Receipt, two: Receipt) {
    let _ = frozen.release(one);
    let _ = frozen.release(two);
}

fn main() {}
