//! Medians and other quantiles of small samples.

/// Sorted values.
#[derive(Clone, Debug)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// # Panics
    /// If there is no value, or one is not a number.
    pub fn new(mut values: Vec<f64>) -> Sample {
        assert!(!values.is_empty(), "a sample needs a value");
        values.sort_by(|a, b| a.partial_cmp(b).expect("a number"));
        Sample(values)
    }

    /// The value below which `share` of the sample lies (nearest rank).
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// How many values, and between which bounds their middle half lies.
    pub fn spread(&self) -> String {
        format!(
            "{} runs, middle half {:.1} to {:.1}",
            self.0.len(),
            self.quantile(0.25),
            self.quantile(0.75)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_sample() {
        let sample = Sample::new(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(sample.median(), 3.0);
        assert_eq!(sample.quantile(0.9), 5.0);
        assert_eq!(sample.quantile(0.0), 1.0);
    }
}
