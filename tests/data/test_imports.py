import subprocess
import sys


def test_models_and_losses_do_not_need_the_data_libraries():
    """A model can be built where no data is read (DESIGN.md, section 9)."""
    code = (
        "import sys, mlm_jax.losses, mlm_jax.models.multimodal, mlm_jax.data\n"
        "heavy = {'grain', 'tensorflow_datasets', 'PIL', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
