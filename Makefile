# The commands that a contributor needs; .ci/run does install, check and test in an environment of its own.
.PHONY: install check format test slow docs

EXTRAS = dev,fs,distributed,judge,plot,evaluate,privacy,quant,smolvlm,trl,dicom,heif,wandb,mlflow,nvflare,real,completion

install:  ## torch first: everything else accepts what is there
	pip install torch==2.13.0
	pip install -c constraints.txt -e '.[$(EXTRAS)]'

check:  ## style and types
	ruff check .
	ruff format --check .
	mypy

format:
	ruff check --fix .
	ruff format .

test:
	python -m pytest -n 4 --dist loadfile

slow:  ## measurements and long soaks
	python -m pytest -m slow

docs:  ## what is generated from the code
	python scripts/write_config_reference.py
