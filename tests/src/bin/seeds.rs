//! Writes what the fuzz targets begin with: `seeds FOLDER` makes `FOLDER/<target>/<number>`, as libFuzzer takes it.

use std::fs;
use std::path::Path;

use tpde_tests::fuzz::TARGETS;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("seeds FOLDER")?;
    for target in TARGETS {
        let place = Path::new(&folder).join(target.name);
        fs::create_dir_all(&place)?;
        for (number, bytes) in (target.seeds)().iter().enumerate() {
            fs::write(place.join(number.to_string()), bytes)?;
        }
    }
    Ok(())
}
